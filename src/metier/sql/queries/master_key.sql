-- mark --
-- Writes down the key of the first process, or of the first after the one before was given up; others change nothing
INSERT INTO master_keys (digest) VALUES (%(digest)s)
ON CONFLICT (one) DO UPDATE SET digest = EXCLUDED.digest, marked_at = now() WHERE master_keys.digest = ''

-- marked --
-- The key this database belongs to
SELECT digest, marked_at FROM master_keys

-- samples --
-- Things sealed before the database was marked, which the right key opens
(SELECT 'contents/workspace' AS purpose, organisation AS place, wrapped AS sealed FROM workspaces LIMIT 1)
UNION ALL
(SELECT 'run', id || '/rights', rights FROM runs ORDER BY id DESC LIMIT 1)
UNION ALL
(SELECT 'secret', concat_ws(chr(1), organisation, project, name), sealed FROM secrets LIMIT 1)
