-- One erasure reaches every room: what was deleted elsewhere is counted with it.
ALTER TABLE erasures ADD COLUMN elsewhere jsonb NOT NULL DEFAULT '{}';  -- rows deleted, by what they were

-- Kept answers know their call, and people by the digest that the rest of the house has for them.
DELETE FROM cache_entries WHERE end_user IS NOT NULL;  -- found by no erasure: their digest was another
ALTER TABLE cache_entries ADD COLUMN call text;         -- which made it; null: made before calls were noted
CREATE INDEX cache_entries_call ON cache_entries (call) WHERE call IS NOT NULL;
ALTER TABLE cache_purges ADD COLUMN call text;
