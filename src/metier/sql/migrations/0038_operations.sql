-- Looking after runs: pauses, forks, lines set aside, and who is in them.
ALTER TYPE run_status ADD VALUE 'paused';        -- put there by a person, at the next boundary; unpausing makes it pending

ALTER TABLE runs
    ADD COLUMN paused_at timestamptz,            -- since when somebody wants it to stand still; null: nobody does
    ADD COLUMN forked_from text,                 -- the run it goes on from, or is run again for; that one may be gone
    ADD COLUMN looked_at timestamptz;            -- when it was last gone through for people, after it was over
CREATE INDEX runs_finished ON runs (finished_at) WHERE finished_at IS NOT NULL AND parent IS NULL;

CREATE INDEX runs_not_looked_at ON runs (finished_at, id) WHERE finished_at IS NOT NULL AND looked_at IS NULL;

CREATE TABLE journal_aside (
    run text NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    cut integer NOT NULL,                        -- which retry of the run set it aside, from 1
    path text NOT NULL,
    attempt integer NOT NULL,
    name text NOT NULL,
    seq bigint NOT NULL,
    kind journal_kind NOT NULL,
    value bytea,                                 -- sealed as in the journal
    blob bytea REFERENCES blobs (digest),
    cost_eur numeric(18, 9) NOT NULL,
    calls integer NOT NULL,
    started_at timestamptz NOT NULL,
    duration_s double precision NOT NULL,
    cut_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (run, cut, path, attempt, name)
);
CREATE INDEX journal_aside_blobs ON journal_aside (blob) WHERE blob IS NOT NULL;
CREATE INDEX runs_around ON runs (around) WHERE around IS NOT NULL;

CREATE TABLE run_people (
    run text NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    person text NOT NULL,                        -- keyed digest of an e-mail address found in what the run holds
    PRIMARY KEY (person, run)
);
CREATE INDEX run_people_by_run ON run_people (run);
CREATE INDEX events_by_age ON events (at);
