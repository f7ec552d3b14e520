-- Placeholders of conversations. The guardrail for personal data is the only writer.

CREATE TABLE conversations (
    project      text NOT NULL,
    conversation text NOT NULL,
    -- What the digests and the seals of this table are bound to; a table that begins anew gets a new one.
    epoch        text NOT NULL,
    -- After this moment the table is as good as gone: the next call of the conversation begins a new one,
    -- and the purge deletes what nobody asks for any more.
    expires_at   timestamptz NOT NULL,
    PRIMARY KEY (project, conversation)
);

CREATE INDEX conversations_expired ON conversations (expires_at);

CREATE TABLE pseudonyms (
    project      text NOT NULL,
    conversation text NOT NULL,
    kind         text NOT NULL,
    ordinal      integer NOT NULL CHECK (ordinal > 0),
    -- 0 for the first spelling of a value, 1 and more for others.
    variant      integer NOT NULL CHECK (variant >= 0),
    -- Keyed digest of the kind and the exact spelling: no spelling has two placeholders, whoever races.
    spelling     bytea NOT NULL,
    -- The exact spelling, encrypted and bound to its placeholder.
    sealed       bytea NOT NULL,
    PRIMARY KEY (project, conversation, kind, ordinal, variant),
    UNIQUE (project, conversation, spelling),
    FOREIGN KEY (project, conversation) REFERENCES conversations ON DELETE CASCADE
);
