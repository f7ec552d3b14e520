-- A project owns keys and a budget.
CREATE TABLE projects (
    id          text PRIMARY KEY,
    name        text NOT NULL UNIQUE,
    created_at  timestamptz NOT NULL DEFAULT now()
);

-- A key is what a caller holds; the secret itself is nowhere, only its keyed digest.
CREATE TABLE keys (
    id          text PRIMARY KEY,             -- the public part, may appear in logs
    digest      bytea NOT NULL,
    name        text NOT NULL,
    project     text NOT NULL REFERENCES projects (id),
    system      text NOT NULL REFERENCES systems (id),
    models      text[],                       -- null: every model of the catalogue
    groups      text[] NOT NULL DEFAULT '{}',
    created_at  timestamptz NOT NULL DEFAULT now(),
    created_by  text NOT NULL,
    expires_at  timestamptz,                  -- null: never
    revoked_at  timestamptz,                  -- set once by revoke, never cleared
    revoked_by  text
);
CREATE INDEX keys_by_project ON keys (project, id);
