-- Workflows: pinned definitions, their runs, and the journal of what each step gave.

CREATE TABLE definitions (
    hash text PRIMARY KEY,                       -- SHA-256 of the content a run depends on
    name text NOT NULL,
    data text NOT NULL,                          -- JSON as text: the order of keys carries meaning
    pinned_at timestamptz NOT NULL DEFAULT now()
);

CREATE TYPE run_status AS ENUM (
    'pending',    -- made by start, or given back by a worker that stops; a segment is deferred
    'running',    -- a worker took it (epoch + 1); only that worker moves it on
    'waiting',    -- put there by the worker: the next try of a step has a time, and a segment is deferred for it
    'parked',     -- put there by the worker: a task waits for a person; nothing is deferred
    'done',       -- put there by the worker: the output is recorded; final
    'failed',     -- put there by the worker: a step failed for good; resume makes it pending again
    'cancelled',  -- put there by a person, whatever the run was doing; final
    'dead'        -- put there by whoever takes it once too often without progress; resume makes it pending again
);

CREATE TABLE runs (
    id text PRIMARY KEY,
    workflow text NOT NULL,
    definition text NOT NULL REFERENCES definitions (hash),
    status run_status NOT NULL DEFAULT 'pending',
    epoch bigint NOT NULL DEFAULT 0,             -- grows each time the run changes hands; older writers are refused
    strikes integer NOT NULL DEFAULT 0,          -- times taken in a row without a new journal entry
    progress bigint NOT NULL DEFAULT 0,          -- journal entries there were when it was last taken
    key_id text NOT NULL,
    project text NOT NULL,
    system text NOT NULL,
    rights bytea NOT NULL,                       -- sealed: name, groups and models of the principal
    dedupe text,                                 -- what started it, so that the same cause never starts it twice
    inputs bytea NOT NULL,                       -- sealed
    output bytea,                                -- sealed, once done
    outcome text,                                -- "done", or the status given by an end step
    error bytea,                                 -- sealed, once failed or dead
    parked_on text,                              -- path of the task it waits for
    wake_at timestamptz,                         -- when a waiting run goes on
    cost_eur numeric(18, 9) NOT NULL DEFAULT 0,  -- sum of its steps, written when it stops
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz
);

CREATE UNIQUE INDEX runs_dedupe ON runs (workflow, dedupe) WHERE dedupe IS NOT NULL;
CREATE INDEX runs_by_workflow ON runs (workflow, id DESC);
CREATE INDEX runs_open ON runs (status) WHERE status IN ('pending', 'running', 'waiting', 'parked', 'failed', 'dead');

CREATE TABLE blobs (
    digest bytea PRIMARY KEY,                    -- keyed digest of the clear content
    sealed bytea NOT NULL,
    size integer NOT NULL,                       -- bytes of the clear content
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TYPE journal_kind AS ENUM (
    'result',     -- a step gave its output, or a loop or switch ended
    'error',      -- a try of a step failed
    'answer',     -- something a step paid for, kept before it is used; never given out again under its name
    'skipped',    -- the condition of a step did not hold
    'choice',     -- what the interpreter decided: the branch of a switch, the end of a turn of a loop
    'decision'    -- what a person decided
);

CREATE TABLE journal (
    run text NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    path text NOT NULL,
    attempt integer NOT NULL,
    name text NOT NULL DEFAULT '',               -- of an answer within a step; '' for the step itself
    seq bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    kind journal_kind NOT NULL,
    epoch bigint NOT NULL,                       -- under which it was written
    value bytea,                                 -- sealed; null when it is in a blob
    blob bytea REFERENCES blobs (digest),
    cost_eur numeric(18, 9) NOT NULL DEFAULT 0,
    calls integer NOT NULL DEFAULT 0,
    started_at timestamptz NOT NULL,
    duration_s double precision NOT NULL DEFAULT 0,
    PRIMARY KEY (run, path, attempt, name)
);

CREATE INDEX journal_blobs ON journal (blob) WHERE blob IS NOT NULL;
