-- Which master key this database is sealed and its keys are recognised under: a keyed digest, from which nothing follows.
CREATE TABLE master_keys (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),   -- there is one
    digest bytea NOT NULL,
    marked_at timestamptz NOT NULL DEFAULT now()
);
