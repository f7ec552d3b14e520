-- Triggers: which flows start by themselves, what their sources were doing, and every event that was taken.

CREATE TABLE trigger_flows (
    project text NOT NULL,
    flow text NOT NULL,
    key_id text NOT NULL,                        -- runs are started in its name
    definition text NOT NULL,                    -- hash of the definition runs are started with
    data text NOT NULL,                          -- that definition
    deployed_by text NOT NULL,
    deployed_at timestamptz NOT NULL,
    PRIMARY KEY (project, flow)
);

CREATE TABLE triggers (
    id text PRIMARY KEY,
    project text NOT NULL,
    flow text NOT NULL,
    kind text NOT NULL,
    likeness text NOT NULL,                      -- digest of kind and config: deployed again alike, it keeps its state
    spec jsonb NOT NULL,                         -- config, with, dedupe, when; never a secret
    enabled boolean NOT NULL DEFAULT true,       -- false once paused by somebody
    revision integer NOT NULL DEFAULT 1,         -- grows with each deployment: a source that runs an older one ends
    state jsonb,                                 -- how far its source has come; only who holds it writes it
    holder text,                                 -- the process whose source runs
    held_until timestamptz,                      -- from then on another process may take it
    epoch bigint NOT NULL DEFAULT 0,             -- grows each time it changes hands; older writers are refused
    failures integer NOT NULL DEFAULT 0,         -- of its source, in a row
    error text,                                  -- why its source failed last; null while it works
    retry_at timestamptz,                        -- not tried before
    taken bigint NOT NULL DEFAULT 0,             -- events so far
    last_at timestamptz,                         -- of the last one
    made_at timestamptz NOT NULL,
    FOREIGN KEY (project, flow) REFERENCES trigger_flows ON DELETE CASCADE,
    UNIQUE (project, flow, likeness)
);

CREATE TABLE trigger_events (
    trigger text NOT NULL REFERENCES triggers ON DELETE CASCADE,
    event bytea NOT NULL,                        -- keyed digest of its id, or of what `dedupe` gave
    outcome text NOT NULL,                       -- 'started', 'skipped' by `when`, 'failed': a dead letter is kept
    run text,
    content bytea,                               -- keyed digest of what was sent, where two under one id must be alike
    at timestamptz NOT NULL,
    PRIMARY KEY (trigger, event)
);
CREATE INDEX trigger_events_by_age ON trigger_events (at);

CREATE TABLE trigger_letters (
    id text PRIMARY KEY,
    trigger text NOT NULL REFERENCES triggers ON DELETE CASCADE,
    event bytea NOT NULL,
    data bytea NOT NULL,                         -- the event, sealed
    error bytea NOT NULL,                        -- why it became no run, sealed: it may quote the event
    tries integer NOT NULL DEFAULT 1,
    at timestamptz NOT NULL
);
CREATE INDEX trigger_letters_by_trigger ON trigger_letters (trigger, id);
