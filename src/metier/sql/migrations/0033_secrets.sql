-- What connectors and triggers prove themselves with. Sealed; only named connectors of one project or organisation read it.
CREATE TABLE secrets (
    organisation text NOT NULL REFERENCES organisations (id) ON DELETE CASCADE,
    project      text NOT NULL DEFAULT '',      -- '' for every project of the organisation
    name         text NOT NULL,
    scope        text[] NOT NULL CHECK (cardinality(scope) > 0),   -- connectors that may read it; '*' for every one
    sealed       bytea NOT NULL,                -- bound to organisation, project and name: it opens nowhere else
    set_by       text NOT NULL,
    set_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (organisation, project, name)
);
