-- What people changed in drafts, kept as examples; links of e-mails that open one task, once.

CREATE TABLE corrections (
    id text PRIMARY KEY,
    task text NOT NULL UNIQUE,
    run text NOT NULL,
    organisation text NOT NULL,
    project text NOT NULL,
    workflow text NOT NULL,
    definition text NOT NULL,                             -- hash of the definition the run is pinned to
    path text NOT NULL,                                   -- of the step in which the draft was corrected
    prompt text,                                          -- path of the prompt that wrote it; null: it is not known
    contents bytea NOT NULL,                              -- sealed: what was shown, the draft, what became of it
    people text[] NOT NULL DEFAULT '{}',                  -- keyed digests of whom the calls of the run served
    by_name text NOT NULL,
    by_id text,
    made_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL
);

CREATE INDEX corrections_by_workflow ON corrections (workflow, id);
CREATE INDEX corrections_by_run ON corrections (run);
CREATE INDEX corrections_expiry ON corrections (expires_at);

CREATE TABLE task_links (
    id text PRIMARY KEY,
    task text NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    person text NOT NULL,                                 -- name of who it was sent to
    assignee text NOT NULL,                               -- for whom the task was when it was sent
    made_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    used_at timestamptz
);

CREATE TABLE task_notices (
    event bigint NOT NULL REFERENCES task_events (id) ON DELETE CASCADE,
    recipient text NOT NULL,                              -- name of the person, never the address
    sent_at timestamptz,
    tries integer NOT NULL DEFAULT 0,
    PRIMARY KEY (event, recipient)
);
