-- Responses kept for clients of the Responses API. The room of stored responses is the only writer.
CREATE TABLE responses (
    id           text PRIMARY KEY,
    -- Who made it. Only keys of the same organisation, project and system read it,
    organisation text NOT NULL,
    project      text NOT NULL,
    system       text NOT NULL,
    -- and only those that belong to every group its maker belonged to: it may hold what those groups read.
    groups       text[] NOT NULL,
    key          text NOT NULL,
    -- Whom the call served: digest of the end user, or the project where none was named. Erasures go by it.
    subject      text NOT NULL,
    -- The response it continues; that one may be deleted or forgotten before this one.
    previous     text,
    size         bigint NOT NULL,              -- bytes before sealing
    -- What was asked and answered, encrypted and bound to its place.
    sealed       bytea NOT NULL,
    created_at   timestamptz NOT NULL,
    -- After this moment it is as good as gone; the purge deletes it, unless a legal hold covers it.
    expires_at   timestamptz NOT NULL
);

CREATE INDEX responses_expired ON responses (expires_at);
CREATE INDEX responses_by_subject ON responses (organisation, subject);
