-- What agents remember together under a key. The memory of agents is the only writer.
CREATE TABLE agent_exchanges (
    id           text PRIMARY KEY,              -- run/path/attempt: a step that is run again keeps it once
    number       bigint GENERATED ALWAYS AS IDENTITY,
    organisation text NOT NULL,
    project      text NOT NULL,
    system       text NOT NULL,
    groups       text[] NOT NULL,               -- it may hold what those groups read: only runs with all of them see it
    conversation text NOT NULL,                 -- digest of organisation, project, system and key
    subject      text NOT NULL,                 -- digest of the person, or the project where none was named
    run          text NOT NULL,
    sealed       bytea NOT NULL,
    created_at   timestamptz NOT NULL,
    expires_at   timestamptz NOT NULL
);
CREATE INDEX agent_exchanges_conversation ON agent_exchanges (conversation, number);
CREATE INDEX agent_exchanges_subject ON agent_exchanges (organisation, subject);
CREATE INDEX agent_exchanges_expires ON agent_exchanges (expires_at);
