-- keep --
-- Keeps one response, sealed
INSERT INTO responses (id, organisation, project, system, groups, key, previous, size, sealed, created_at, expires_at)
VALUES (
    %(id)s, %(organisation)s, %(project)s, %(system)s, %(groups)s, %(key)s, %(previous)s, %(size)s, %(sealed)s,
    %(now)s, %(expires_at)s
)

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
-- Deletes one response, if the caller may read it
DELETE FROM responses
WHERE id = %(id)s AND organisation = %(organisation)s AND project = %(project)s AND system = %(system)s
  AND groups <@ %(groups)s AND expires_at > %(now)s

-- purge --
-- Deletes the responses whose time is over
DELETE FROM responses WHERE expires_at <= %(now)s
