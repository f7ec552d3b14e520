-- Answers kept to be given again. The cache is the only writer.

CREATE TABLE cache_entries (
    key          bytea PRIMARY KEY,          -- keyed digest of the partition and the masked question
    partition    bytea NOT NULL,             -- keyed digest of all that keeps answers apart
    organisation text NOT NULL,
    project      text NOT NULL,
    system       text NOT NULL,
    model        text NOT NULL,
    end_user     bytea,                      -- keyed digest of whom the client served; null: not said
    made_at      timestamptz NOT NULL,
    expires_at   timestamptz NOT NULL,       -- from then on it is as good as gone; the sweep deletes it
    sealed       bytea NOT NULL,             -- question and answer, masked, encrypted, bound to partition and key
    embedder     text,                       -- vectors are only compared with those of the same one
    embedding    vector,                     -- of the masked question; null: only the very same question will do
    hits         bigint NOT NULL DEFAULT 0,
    cost_eur     numeric(18, 9) NOT NULL,    -- what each hit saves
    energy_kwh   double precision,
    CHECK ((embedder IS NULL) = (embedding IS NULL))
);

-- Vectors stay in their rows, where comparing finds them; what is sealed, and does not compress, leaves first.
ALTER TABLE cache_entries ALTER COLUMN embedding SET STORAGE MAIN;
ALTER TABLE cache_entries ALTER COLUMN sealed SET STORAGE EXTERNAL;

CREATE INDEX cache_entries_partition ON cache_entries (partition) WHERE embedding IS NOT NULL;
CREATE INDEX cache_entries_system ON cache_entries (system, made_at);
CREATE INDEX cache_entries_expired ON cache_entries (expires_at);
CREATE INDEX cache_entries_person ON cache_entries (end_user) WHERE end_user IS NOT NULL;

-- Who had kept answers deleted, and which; a worker that sees a new row forgets what it holds in memory,
-- and answers begun before the newest row are not kept.
CREATE TABLE cache_purges (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at           timestamptz NOT NULL,
    by           text NOT NULL,
    organisation text,
    project      text,
    system       text,
    model        text,
    person       bytea,                      -- the digest, never the name
    before       timestamptz,                -- only what was made before
    deleted      bigint NOT NULL DEFAULT 0
);
