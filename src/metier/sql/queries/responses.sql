-- keep --
-- Keeps one response, sealed, unless it was decided that what its system's calls say in clear is not kept
INSERT INTO responses
    (id, organisation, project, system, groups, key, subject, previous, size, sealed, created_at, expires_at)
SELECT
    %(id)s, %(organisation)s, %(project)s, %(system)s, %(groups)s, %(key)s, %(subject)s, %(previous)s, %(size)s,
    %(sealed)s, %(now)s, %(now)s::timestamptz + make_interval(days => least(%(days)s::integer, decided.contents_days))
FROM (VALUES (true)) AS always
LEFT JOIN LATERAL (
    SELECT capture, contents_days FROM keepings WHERE system = %(system)s ORDER BY id DESC LIMIT 1
) AS decided ON true
WHERE decided.capture IS NULL OR decided.capture = 'full'

-- find --
-- One response, if the caller may read it and its time is not over
SELECT id, previous, sealed
FROM responses
WHERE id = %(id)s AND organisation = %(organisation)s AND project = %(project)s AND system = %(system)s
  AND groups <@ %(groups)s AND expires_at > %(now)s

-- chain --
-- A response and those it continues, as far as the caller may read them, the oldest first
WITH RECURSIVE chain AS (
    SELECT id, previous, size, 1 AS depth
    FROM responses
    WHERE id = %(id)s AND organisation = %(organisation)s AND project = %(project)s AND system = %(system)s
      AND groups <@ %(groups)s AND expires_at > %(now)s
    UNION ALL
    SELECT r.id, r.previous, r.size, c.depth + 1
    FROM chain c
    JOIN responses r ON r.id = c.previous
    WHERE r.organisation = %(organisation)s AND r.project = %(project)s AND r.system = %(system)s
      AND r.groups <@ %(groups)s AND r.expires_at > %(now)s AND c.depth < %(most)s
)
SELECT id, previous, size FROM chain ORDER BY depth DESC

-- contents --
-- What is sealed in responses the caller was found to have a right to
SELECT id, previous, sealed FROM responses WHERE id = ANY(%(ids)s)

-- delete --
-- Ends the time of one response, if the caller may read it; the purge deletes it
UPDATE responses SET expires_at = %(now)s
WHERE id = %(id)s AND organisation = %(organisation)s AND project = %(project)s AND system = %(system)s
  AND groups <@ %(groups)s AND expires_at > %(now)s

-- purge --
-- Deletes the responses whose time is over, or the one named, but none that a legal hold covers
DELETE FROM responses r
WHERE r.expires_at <= %(now)s AND (%(id)s::text IS NULL OR r.id = %(id)s)
  AND NOT EXISTS (
    SELECT FROM legal_holds h
    WHERE h.released_at IS NULL AND (
        (h.scope = 'system' AND h.target = r.system) OR (h.scope = 'project' AND h.target = r.project)
        OR (h.scope = 'subject' AND h.target = r.subject) OR (h.scope = 'call' AND 'resp_' || h.target = r.id)
    )
  )

-- erase --
-- Deletes the response of one call, or those made for a subject, but none that a legal hold covers
DELETE FROM responses r
WHERE CASE WHEN %(id)s::text IS NOT NULL THEN r.id = %(id)s
      ELSE r.organisation = %(organisation)s AND r.subject = %(subject)s END
  AND NOT EXISTS (
    SELECT FROM legal_holds h
    WHERE h.released_at IS NULL AND (
        (h.scope = 'system' AND h.target = r.system) OR (h.scope = 'project' AND h.target = r.project)
        OR (h.scope = 'subject' AND h.target = r.subject) OR (h.scope = 'call' AND 'resp_' || h.target = r.id)
    )
  )

-- count_erasable --
-- Counts the response of one call, or those made for a subject, but none that a legal hold covers
SELECT count(*) AS responses FROM responses r
WHERE CASE WHEN %(id)s::text IS NOT NULL THEN r.id = %(id)s
      ELSE r.organisation = %(organisation)s AND r.subject = %(subject)s END
  AND NOT EXISTS (
    SELECT FROM legal_holds h
    WHERE h.released_at IS NULL AND (
        (h.scope = 'system' AND h.target = r.system) OR (h.scope = 'project' AND h.target = r.project)
        OR (h.scope = 'subject' AND h.target = r.subject) OR (h.scope = 'call' AND 'resp_' || h.target = r.id)
    )
  )
