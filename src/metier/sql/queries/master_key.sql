-- mark --
-- Writes down the key of the first process; those after it change nothing
INSERT INTO master_keys (digest) VALUES (%(digest)s)
ON CONFLICT (one) DO NOTHING

-- marked --
-- The key this database belongs to
SELECT digest, marked_at FROM master_keys
