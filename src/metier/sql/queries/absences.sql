-- declare --
-- Keeps that somebody will be away, and who stands in.
INSERT INTO absences (id, organisation, person, substitute, from_at, until_at, declared_by, declared_id, declared_at)
VALUES (%(id)s, %(organisation)s, %(person)s, %(substitute)s, %(from_at)s, %(until_at)s, %(declared_by)s,
        %(declared_id)s, %(declared_at)s)

-- end --
-- Ends an absence now, or before it begins.
UPDATE absences SET ended_at = %(now)s
 WHERE id = %(id)s AND ended_at IS NULL AND until_at > %(now)s
   AND (%(person)s::text IS NULL OR person = %(person)s)
   AND (%(organisation)s::text IS NULL OR organisation = %(organisation)s)

-- coming --
-- Gives the absences that are not over, of a person or with a place among these as the substitute.
SELECT * FROM absences
 WHERE ended_at IS NULL AND until_at > %(now)s
   AND (%(person)s::text IS NULL OR person = %(person)s OR substitute = ANY(%(substitutes)s))
   AND (%(organisation)s::text IS NULL OR organisation = %(organisation)s)
 ORDER BY from_at, id

-- now --
-- Gives the absence somebody has now, the one that lasts longest.
SELECT * FROM absences
 WHERE person = %(person)s AND ended_at IS NULL AND from_at <= %(now)s AND until_at > %(now)s
   AND (%(organisation)s::text IS NULL OR organisation = %(organisation)s)
 ORDER BY until_at DESC LIMIT 1

-- absent --
-- Gives those who are away now and for whom one of these places stands in.
SELECT DISTINCT person FROM absences
 WHERE substitute = ANY(%(substitutes)s) AND ended_at IS NULL AND from_at <= %(now)s AND until_at > %(now)s
   AND (%(organisation)s::text IS NULL OR organisation = %(organisation)s)
