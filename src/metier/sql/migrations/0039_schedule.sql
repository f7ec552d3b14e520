-- Runs that wait for their turn: a place in the line of their project, hours in which they may begin, live workers.
ALTER TABLE runs
    ADD COLUMN place timestamptz,                -- when it came, a minute earlier for each point of its priority; null: in no line
    ADD COLUMN hours text,                       -- the hours in which it may begin; null: always
    ADD COLUMN opens_at timestamptz,             -- it may not begin before
    ADD COLUMN admitted_at timestamptz;          -- when it was let in; only kept where starts are counted
CREATE INDEX runs_in_line ON runs (project, place, id) WHERE status = 'queued' AND place IS NOT NULL;
CREATE INDEX runs_active ON runs (project) WHERE status IN ('pending', 'running');
CREATE INDEX runs_admitted ON runs (admitted_at) WHERE admitted_at IS NOT NULL;

ALTER TABLE item_groups
    ADD COLUMN purse_eur numeric(18, 9),         -- what all items may spend together; null: no bound
    ADD COLUMN held_eur numeric(18, 9) NOT NULL DEFAULT 0,   -- put aside for the items under way
    ADD COLUMN spent_eur numeric(18, 9) NOT NULL DEFAULT 0;  -- by the items that are over

CREATE TABLE worker_slots (
    worker text PRIMARY KEY,
    slots integer NOT NULL,                      -- runs it moves at once
    seen_at timestamptz NOT NULL DEFAULT now()
);
