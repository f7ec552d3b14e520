-- Tasks: questions waiting for a person.

CREATE TYPE task_state AS ENUM (
    'open',       -- opened with the parking of its run; anybody it is assigned to may take it
    'claimed',    -- a person said they are on it; hand-off or release makes it open again
    'decided',    -- a person decided; the run goes on; final
    'expired',    -- the due date passed and the workflow said what then holds; final
    'cancelled'   -- the run was cancelled; final
);

CREATE TABLE tasks (
    id text PRIMARY KEY,
    run text NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    workflow text NOT NULL,
    project text NOT NULL,
    path text NOT NULL,
    attempt integer NOT NULL,
    name text NOT NULL DEFAULT '',               -- '' for a human step; '!human' or '!budget' when the engine asks
    state task_state NOT NULL DEFAULT 'open',
    title bytea NOT NULL,                        -- sealed: it may name a person
    assignee text NOT NULL,                      -- "group:<name>" or "user:<name>"
    claimed_by text,
    payload bytea NOT NULL,                      -- sealed: what is shown, the draft to edit, the schema of the decision
    due_at timestamptz,
    remind_at timestamptz,                       -- next reminder
    reminders timestamptz[] NOT NULL DEFAULT '{}',   -- those still to come after it
    reminded integer NOT NULL DEFAULT 0,
    on_timeout jsonb,                            -- {"reassign": …} or {"output": …}
    handed_off integer NOT NULL DEFAULT 0,       -- times it changed hands
    decision bytea,                              -- sealed
    decided_by text,
    opened_at timestamptz NOT NULL DEFAULT now(),
    decided_at timestamptz,
    UNIQUE (run, path, attempt, name)
);

CREATE INDEX tasks_by_assignee ON tasks (assignee, id) WHERE state IN ('open', 'claimed');
CREATE INDEX tasks_due ON tasks (due_at) WHERE state IN ('open', 'claimed') AND due_at IS NOT NULL;
CREATE INDEX tasks_reminders ON tasks (remind_at) WHERE state IN ('open', 'claimed') AND remind_at IS NOT NULL;
