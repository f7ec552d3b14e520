-- exact --
-- The kept answer to the very same question, if it is still good, beside the number of the newest purge.
SELECT coalesce((SELECT max(id) FROM cache_purges), 0) AS purge, e.sealed
FROM (SELECT 1) AS one
LEFT JOIN cache_entries e ON e.key = %(key)s AND e.partition = %(partition)s AND e.expires_at > %(now)s;

-- near --
-- The kept questions nearest in meaning, inside one partition and among vectors of one embedder only.
SELECT key, sealed, 1 - distance AS similarity FROM (
    SELECT key, sealed, embedding <=> %(vector)s::vector AS distance
    FROM cache_entries
    WHERE partition = %(partition)s AND embedder = %(embedder)s AND expires_at > %(now)s
    ORDER BY distance, key LIMIT %(most)s
) AS nearest
WHERE 1 - distance >= %(least)s::double precision
ORDER BY distance, key;

-- newest_purge --
-- The number of the newest purge.
SELECT coalesce(max(id), 0) AS purge FROM cache_purges;

-- share --
-- Lets writers in together, and keeps a purge waiting until they are done.
SELECT pg_advisory_xact_lock_shared(7163394129);

-- alone --
-- Lets a purge in alone: no answer begun before it can be written after it.
SELECT pg_advisory_xact_lock(7163394129);

-- keep --
-- Keeps an answer, in place of an older one, unless something was purged since its call began.
INSERT INTO cache_entries (
    key, partition, organisation, project, system, model, end_user, made_at, expires_at, sealed, embedder, embedding,
    cost_eur, energy_kwh, call)
SELECT
    %(key)s, %(partition)s, %(organisation)s, %(project)s, %(system)s, %(model)s, %(end_user)s::bytea, %(made_at)s,
    %(expires_at)s, %(sealed)s, %(embedder)s::text, %(vector)s::vector, %(cost_eur)s, %(energy_kwh)s::double precision,
    %(call)s::text
WHERE coalesce((SELECT max(id) FROM cache_purges), 0) = %(purge)s
ON CONFLICT (key) DO UPDATE SET
    made_at = EXCLUDED.made_at, expires_at = EXCLUDED.expires_at, sealed = EXCLUDED.sealed,
    end_user = EXCLUDED.end_user, embedder = EXCLUDED.embedder, embedding = EXCLUDED.embedding,
    cost_eur = EXCLUDED.cost_eur, energy_kwh = EXCLUDED.energy_kwh, call = EXCLUDED.call
WHERE cache_entries.made_at <= EXCLUDED.made_at;

-- trim --
-- Deletes the oldest answers of a system beyond the number it may keep.
DELETE FROM cache_entries WHERE key IN (
    SELECT key FROM cache_entries WHERE system = %(system)s ORDER BY made_at DESC, key OFFSET %(most)s
);

-- count_hits --
-- Adds the hits counted in memory.
UPDATE cache_entries AS e SET hits = e.hits + c.hits
FROM unnest(%(keys)s::bytea[], %(hits)s::bigint[]) AS c (key, hits)
WHERE e.key = c.key;

-- expire --
-- Deletes the answers whose time is over.
DELETE FROM cache_entries WHERE expires_at <= %(now)s;

-- note_purge --
-- Writes down who deletes what, before it is deleted.
INSERT INTO cache_purges (at, by, organisation, project, system, model, person, before, call)
VALUES (%(now)s, %(by)s, %(organisation)s, %(project)s, %(system)s, %(model)s, %(person)s, %(before)s, %(call)s)
RETURNING id;

-- purge --
-- Deletes the answers that fit every criterion given.
DELETE FROM cache_entries
WHERE (%(organisation)s::text IS NULL OR organisation = %(organisation)s)
  AND (%(project)s::text IS NULL OR project = %(project)s)
  AND (%(system)s::text IS NULL OR system = %(system)s)
  AND (%(model)s::text IS NULL OR model = %(model)s)
  AND (%(person)s::bytea IS NULL OR end_user = %(person)s)
  AND (%(before)s::timestamptz IS NULL OR made_at < %(before)s)
  AND (%(call)s::text IS NULL OR call = %(call)s);

-- count --
-- Counts the answers that a purge by the same criteria would delete.
SELECT count(*) AS entries FROM cache_entries
WHERE (%(organisation)s::text IS NULL OR organisation = %(organisation)s)
  AND (%(project)s::text IS NULL OR project = %(project)s)
  AND (%(system)s::text IS NULL OR system = %(system)s)
  AND (%(model)s::text IS NULL OR model = %(model)s)
  AND (%(person)s::bytea IS NULL OR end_user = %(person)s)
  AND (%(before)s::timestamptz IS NULL OR made_at < %(before)s)
  AND (%(call)s::text IS NULL OR call = %(call)s);

-- close_purge --
-- Writes down how many answers a purge deleted.
UPDATE cache_purges SET deleted = %(deleted)s WHERE id = %(id)s;

-- totals --
-- What is kept, by system and model, with what it has saved so far.
SELECT
    organisation, project, system, model, count(*) AS entries, count(embedding) AS comparable,
    sum(length(sealed))::bigint AS bytes, sum(hits)::bigint AS hits, sum(hits * cost_eur) AS saved_eur,
    sum(hits * energy_kwh) AS saved_kwh, min(made_at) AS oldest, max(made_at) AS newest
FROM cache_entries
WHERE expires_at > %(now)s AND (%(system)s::text IS NULL OR system = %(system)s)
GROUP BY 1, 2, 3, 4 ORDER BY hits DESC, entries DESC, organisation, project, system, model;
