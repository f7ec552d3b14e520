-- newest --
-- The newest exchanges of a conversation that the caller may read, the newest first
SELECT id, sealed FROM agent_exchanges
WHERE conversation = %(conversation)s AND groups <@ %(groups)s AND expires_at > %(now)s
ORDER BY number DESC
LIMIT %(most)s

-- keep --
-- Keeps one exchange, once, unless it was decided that what its system's calls say in clear is not kept
INSERT INTO agent_exchanges
    (id, organisation, project, system, groups, conversation, subject, run, sealed, created_at, expires_at)
SELECT
    %(id)s, %(organisation)s, %(project)s, %(system)s, %(groups)s, %(conversation)s, %(subject)s, %(run)s, %(sealed)s,
    %(now)s, %(now)s::timestamptz + make_interval(days => least(%(days)s::integer, decided.contents_days))
FROM (VALUES (true)) AS always
LEFT JOIN LATERAL (
    SELECT capture, contents_days FROM keepings WHERE system = %(system)s ORDER BY id DESC LIMIT 1
) AS decided ON true
WHERE decided.capture IS NULL OR decided.capture = 'full'
ON CONFLICT (id) DO NOTHING

-- purge --
-- Deletes the exchanges whose time is over, but none that a legal hold covers
DELETE FROM agent_exchanges e
WHERE e.expires_at <= %(now)s
  AND NOT EXISTS (
    SELECT FROM legal_holds h
    WHERE h.released_at IS NULL AND (
        (h.scope = 'system' AND h.target = e.system) OR (h.scope = 'project' AND h.target = e.project)
        OR (h.scope = 'subject' AND h.target = e.subject)
    )
  )

-- erase --
-- Deletes the exchanges with a subject, but none that a legal hold covers
DELETE FROM agent_exchanges e
WHERE e.organisation = %(organisation)s AND e.subject = %(subject)s
  AND NOT EXISTS (
    SELECT FROM legal_holds h
    WHERE h.released_at IS NULL AND (
        (h.scope = 'system' AND h.target = e.system) OR (h.scope = 'project' AND h.target = e.project)
        OR (h.scope = 'subject' AND h.target = e.subject)
    )
  )

-- count_erasable --
-- Counts the exchanges with a subject, but none that a legal hold covers
SELECT count(*) AS exchanges FROM agent_exchanges e
WHERE e.organisation = %(organisation)s AND e.subject = %(subject)s
  AND NOT EXISTS (
    SELECT FROM legal_holds h
    WHERE h.released_at IS NULL AND (
        (h.scope = 'system' AND h.target = e.system) OR (h.scope = 'project' AND h.target = e.project)
        OR (h.scope = 'subject' AND h.target = e.subject)
    )
  )
