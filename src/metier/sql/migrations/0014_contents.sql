-- What is kept of a system's calls and for how long: one row per decision, only ever added; the latest counts.
CREATE TABLE keepings (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    system        text NOT NULL REFERENCES systems (id),
    capture       text NOT NULL CHECK (capture IN (
        'none',       -- no contents; what holds without a decision
        'masked',     -- what the provider saw, placeholders in place of personal values
        'full'        -- what the client saw
    )),
    contents_days integer NOT NULL CHECK (contents_days > 0),
    metadata_days integer NOT NULL CHECK (metadata_days >= contents_days),
    reason        text NOT NULL CHECK (reason <> ''),
    by_whom       text NOT NULL CHECK (by_whom <> ''),
    at            timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX keepings_by_system ON keepings (system, id);

-- A legal hold: what it covers is neither deleted by age nor erased until somebody releases it.
CREATE TABLE legal_holds (
    id          text PRIMARY KEY,
    scope       text NOT NULL CHECK (scope IN ('system', 'project', 'subject', 'call')),
    target      text NOT NULL,            -- an id; for 'subject' a subject as in contents
    reason      text NOT NULL CHECK (reason <> ''),
    by_whom     text NOT NULL,
    at          timestamptz NOT NULL DEFAULT now(),
    released_at timestamptz,              -- null: it holds
    released_by text
);

-- Keys of contents, each wrapped under the one above: master key, workspace, subject, record. To drop one is to erase.
CREATE TABLE workspaces (
    organisation text PRIMARY KEY,
    wrapped      bytea NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE subjects (
    organisation text NOT NULL,
    subject      text NOT NULL,           -- keyed digest of an end user; where none was named, the id of the project
    wrapped      bytea NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (organisation, subject)
);

-- What was asked and answered, sealed; written in the transaction of its call.
CREATE TABLE contents (
    call         text PRIMARY KEY REFERENCES calls (id) ON DELETE CASCADE,
    at           timestamptz NOT NULL,
    organisation text NOT NULL,
    project      text NOT NULL,
    system       text NOT NULL,
    subject      text NOT NULL,
    mode         text NOT NULL CHECK (mode IN ('masked', 'full')),
    cut          boolean NOT NULL,        -- it was longer than what is kept
    wrapped      bytea NOT NULL,          -- the key of this record, under that of the subject
    sealed       bytea NOT NULL
);
ALTER TABLE contents ALTER COLUMN sealed SET STORAGE EXTERNAL;   -- what is encrypted cannot be compressed
CREATE INDEX contents_by_system ON contents (system, at);
CREATE INDEX contents_by_subject ON contents (organisation, subject);

CREATE INDEX calls_by_end_user ON calls (organisation, end_user) WHERE end_user IS NOT NULL;

-- What was erased; also keeps a late record of the same subject or call from coming back out of a spool.
CREATE TABLE erasures (
    id           text PRIMARY KEY,
    organisation text NOT NULL,
    subject      text,                    -- null: one call was erased
    call         text,                    -- null: a subject was erased
    records      bigint NOT NULL,         -- contents erased
    unlinked     bigint NOT NULL,         -- calls that no longer say whom they served
    reason       text NOT NULL,
    by_whom      text NOT NULL,
    at           timestamptz NOT NULL DEFAULT now(),
    CHECK ((subject IS NULL) <> (call IS NULL))
);
CREATE INDEX erasures_by_subject ON erasures (organisation, subject, at) WHERE subject IS NOT NULL;
CREATE INDEX erasures_by_call ON erasures (call) WHERE call IS NOT NULL;

-- Who may read the contents of a system's calls; without a row nobody may.
CREATE TABLE readers (
    id          text PRIMARY KEY,
    who         text NOT NULL CHECK (who <> ''),
    system      text NOT NULL REFERENCES systems (id),
    reason      text NOT NULL CHECK (reason <> ''),
    granted_by  text NOT NULL,
    granted_at  timestamptz NOT NULL DEFAULT now(),
    until       timestamptz NOT NULL,
    revoked_at  timestamptz               -- null: it holds until then
);
CREATE INDEX readers_by_who ON readers (who, system);

-- Every reading of contents and every refusal of one, written before anything is shown; rows are only ever added.
CREATE TABLE content_reads (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    call     text NOT NULL,
    system   text NOT NULL,
    by_whom  text NOT NULL,
    reason   text NOT NULL,
    outcome  text NOT NULL CHECK (outcome IN ('shown', 'refused')),
    at       timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX content_reads_by_call ON content_reads (call);
