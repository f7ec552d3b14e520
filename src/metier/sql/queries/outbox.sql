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

-- taken --
-- the server took it: this is known for sure, whatever was thought or decided meanwhile
UPDATE outbox
SET state = 'sent', error = NULL, updated_at = now()
WHERE key = %(key)s AND state <> 'sent';

-- doubtful --
-- messages a person must look for: known to be unsure, or on the wire for longer than any server answers
SELECT key, message_id, state, true AS doubtful, content, updated_at, settled_as, settled_by, settled_at,
       coalesce((SELECT p.organisation FROM runs r JOIN projects p ON p.id = r.project
                 WHERE r.id = split_part(key, '/', 1)), 'main') AS organisation
FROM outbox
WHERE state = 'unsure' OR (state = 'sending' AND updated_at < %(now)s::timestamptz - interval '10 minutes')
ORDER BY updated_at, key;

-- find --
-- one message by its key or its Message-ID
SELECT key, message_id, state, content, updated_at, settled_as, settled_by, settled_at,
       state = 'unsure' OR (state = 'sending' AND updated_at < %(now)s::timestamptz - interval '10 minutes') AS doubtful,
       coalesce((SELECT p.organisation FROM runs r JOIN projects p ON p.id = r.project
                 WHERE r.id = split_part(key, '/', 1)), 'main') AS organisation
FROM outbox
WHERE key = %(name)s OR message_id = %(name)s;

-- of_run --
-- every message of a run
SELECT key, message_id, state, content, updated_at, settled_as, settled_by, settled_at,
       state = 'unsure' OR (state = 'sending' AND updated_at < %(now)s::timestamptz - interval '10 minutes') AS doubtful
FROM outbox
WHERE starts_with(key, %(run)s::text || '/')
ORDER BY created_at, key;

-- settle --
-- record what a person found out about a doubtful message, once
UPDATE outbox
SET state = CASE %(as)s::text WHEN 'delivered' THEN 'sent' ELSE 'prepared' END, error = NULL, updated_at = now(),
    settled_as = %(as)s::text, settled_by = %(by)s, settled_at = %(now)s::timestamptz
WHERE key = %(key)s
  AND (state = 'unsure' OR (state = 'sending' AND updated_at < %(now)s::timestamptz - interval '10 minutes'))
RETURNING key;
