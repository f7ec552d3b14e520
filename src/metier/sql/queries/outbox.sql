-- prepare --
-- write a message down once; a second time changes nothing
INSERT INTO outbox (key, message_id, content)
VALUES (%(key)s, %(message_id)s, %(content)s)
ON CONFLICT (key) DO NOTHING;

-- get --
-- one message with its state
SELECT key, message_id, state, content, error, created_at, updated_at
FROM outbox
WHERE key = %(key)s;

-- claim --
-- take the right to transmit; no row means somebody else has it or it is done
UPDATE outbox
SET state = 'sending', error = NULL, updated_at = now()
WHERE key = %(key)s AND state = 'prepared'
RETURNING key;

-- move --
-- change the state from one that is expected
UPDATE outbox
SET state = %(to)s, error = %(error)s, updated_at = now()
WHERE key = %(key)s AND state = %(from)s;
