-- add --
-- keep a new version, numbered after the last one
INSERT INTO classifiers (name, version, card, weights, digest)
SELECT %(name)s, coalesce(max(version), 0) + 1, %(card)s, %(weights)s, %(digest)s
FROM classifiers
WHERE name = %(name)s
RETURNING version;

-- get --
-- one version, or the last one when none is asked
SELECT name, version, card, weights, digest
FROM classifiers
WHERE name = %(name)s AND (%(version)s::int IS NULL OR version = %(version)s)
ORDER BY version DESC
LIMIT 1;

-- list --
-- every version without its weights
SELECT name, version, card, digest, created_at
FROM classifiers
ORDER BY name, version DESC;
