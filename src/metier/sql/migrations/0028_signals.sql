-- Runs with several branches under way: what they wait for, what wakes them, runs of runs, events.
ALTER TYPE run_status ADD VALUE 'queued';        -- an item of a foreach: its siblings make it due as they end

ALTER TABLE runs
    ADD COLUMN signals bigint NOT NULL DEFAULT 0,    -- decisions, events and ends of children it was told of
    ADD COLUMN priority integer NOT NULL DEFAULT 0,
    ADD COLUMN parent text REFERENCES runs (id) ON DELETE CASCADE,
    ADD COLUMN parent_path text,                 -- of the step that started it
    ADD COLUMN parent_attempt integer,
    ADD COLUMN item integer,                     -- which item of a foreach it is; null: a call
    ADD COLUMN around bytea REFERENCES blobs (digest),   -- values around an item, one blob for all
    ADD COLUMN allowance_eur numeric(18, 9);     -- what was left of the money of its parent
CREATE UNIQUE INDEX runs_calls ON runs (parent, parent_path, parent_attempt) WHERE parent IS NOT NULL AND item IS NULL;
CREATE UNIQUE INDEX runs_items ON runs (parent, parent_path, parent_attempt, item) WHERE item IS NOT NULL;

ALTER TABLE journal ADD COLUMN signal bigint;    -- count of signals with which it came; null: written by the worker
CREATE INDEX journal_signals ON journal (run, signal) WHERE signal IS NOT NULL;

CREATE TABLE waits (
    run text NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    path text NOT NULL,
    attempt integer NOT NULL,
    name text NOT NULL DEFAULT '',               -- of the decision; '' for a human step and for an event
    kind text NOT NULL CHECK (kind IN (
        'task',       -- made when its task is opened, gone with the decision
        'event'       -- made when the step begins to wait, gone with the event or when its time is over
    )),
    project text,
    event text,
    key text,
    opened_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (run, path, attempt, name)
);
CREATE INDEX waits_events ON waits (project, event, key) WHERE kind = 'event';

INSERT INTO waits (run, path, attempt, name, kind)
SELECT run, path, attempt, name, 'task' FROM tasks WHERE state IN ('open', 'claimed');

CREATE TABLE events (
    id text PRIMARY KEY,                         -- of the cause: the same one is told once
    project text NOT NULL,
    event text NOT NULL,
    key text NOT NULL,
    data bytea NOT NULL,                         -- sealed
    at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX events_by_name ON events (project, event, key, at);

CREATE TABLE item_groups (
    parent text NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    path text NOT NULL,
    attempt integer NOT NULL,
    items_left integer NOT NULL,                 -- items not over; the one that makes it 0 wakes the parent
    collects boolean NOT NULL,                   -- whether the others go on when one fails
    PRIMARY KEY (parent, path, attempt)
);

CREATE TABLE kept_results (
    digest bytea PRIMARY KEY,                    -- keyed digest of project, flow, step and what it was given
    sealed bytea NOT NULL,
    expires_at timestamptz NOT NULL
);
CREATE INDEX kept_results_expiry ON kept_results (expires_at);
