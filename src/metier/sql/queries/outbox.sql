-- prepare --
-- write an effect down once; a second time changes nothing
INSERT INTO outbox (key, message_id, content, tool, target)
VALUES (%(key)s, %(message_id)s, %(content)s, %(tool)s, %(target)s)
ON CONFLICT (key) DO NOTHING;

-- get --
-- one message with its state
SELECT key, message_id, state, content, error, created_at, updated_at, tool, mark, result
FROM outbox
WHERE key = %(key)s;

-- claim --
-- take the right to transmit; no row means somebody else has it or it is done
UPDATE outbox
SET state = 'sending', error = NULL, mark = %(mark)s::text, updated_at = now()
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
SET state = 'sent', error = NULL, result = %(result)s::bytea, updated_at = now()
WHERE key = %(key)s AND state <> 'sent';

-- doubtful --
-- effects a person must look for, no notices of tasks: known to be unsure, or on the wire for longer than any server answers
SELECT o.key, o.message_id, o.state, o.tool, o.target, o.content, o.updated_at, o.settled_as, o.settled_by, o.settled_at,
       true AS doubtful, r.status::text AS run_status, CASE WHEN r.id IS NOT NULL THEN coalesce(p.organisation, 'main') END AS organisation
FROM outbox o
LEFT JOIN runs r ON r.id = split_part(o.key, '/', 1)
LEFT JOIN projects p ON p.id = r.project
WHERE o.tool <> 'task.notice'
  AND (o.state = 'unsure' OR (o.state = 'sending' AND o.updated_at < %(now)s::timestamptz - interval '10 minutes'))
ORDER BY o.updated_at, o.key;

-- find --
-- one effect by its key, its Message-ID or its idempotency key; notices hold links that are for one person alone
SELECT o.key, o.message_id, o.state, o.tool, o.target, o.content, o.updated_at, o.settled_as, o.settled_by, o.settled_at,
       o.state = 'unsure' OR (o.state = 'sending' AND o.updated_at < %(now)s::timestamptz - interval '10 minutes') AS doubtful,
       r.status::text AS run_status, CASE WHEN r.id IS NOT NULL THEN coalesce(p.organisation, 'main') END AS organisation
FROM outbox o
LEFT JOIN runs r ON r.id = split_part(o.key, '/', 1)
LEFT JOIN projects p ON p.id = r.project
WHERE (o.key = %(name)s OR o.message_id = %(name)s) AND o.tool <> 'task.notice';

-- of_run --
-- every effect of a run
SELECT o.key, o.message_id, o.state, o.tool, o.target, o.content, o.updated_at, o.settled_as, o.settled_by, o.settled_at,
       o.state = 'unsure' OR (o.state = 'sending' AND o.updated_at < %(now)s::timestamptz - interval '10 minutes') AS doubtful,
       r.status::text AS run_status
FROM outbox o
LEFT JOIN runs r ON r.id = split_part(o.key, '/', 1)
WHERE starts_with(o.key, %(run)s::text || '/')
ORDER BY o.created_at, o.key;

-- doubt_below --
-- whether an effect of a run, or of one it has started, may have been done without anybody knowing
WITH RECURSIVE family AS (
    SELECT %(run)s::text AS id
    UNION ALL
    SELECT runs.id FROM runs JOIN family ON runs.parent = family.id
)
SELECT o.key FROM family JOIN outbox o ON starts_with(o.key, family.id || '/')
WHERE o.state IN ('sending', 'unsure') LIMIT 1;

-- drop_orphans --
-- effects of runs that are there no more: nothing repeats them, and what they hold goes with its run
DELETE FROM outbox o
WHERE starts_with(o.key, 'run_') AND NOT EXISTS (SELECT 1 FROM runs WHERE runs.id = split_part(o.key, '/', 1));

-- settle --
-- record what a person found out about a doubtful message, once
UPDATE outbox
SET state = CASE %(as)s::text WHEN 'delivered' THEN 'sent' WHEN 'again' THEN 'prepared' ELSE 'dropped' END, error = NULL, updated_at = now(),
    settled_as = %(as)s::text, settled_by = %(by)s, settled_at = %(now)s::timestamptz
WHERE key = %(key)s
  AND (state = 'unsure' OR (state = 'sending' AND updated_at < %(now)s::timestamptz - interval '10 minutes'))
RETURNING key;
