-- What a project may spend per period, and the money of its current period. No row: no limit.
-- Past periods are read from the calls; the row is moved to the next period by the first lease taken in it.
CREATE TABLE budgets (
    project     text PRIMARY KEY REFERENCES projects (id),
    period      text NOT NULL CHECK (period IN ('day', 'month', 'total')),  -- days and months are UTC
    limit_eur   numeric(18, 9) NOT NULL CHECK (limit_eur >= 0),
    starts_on   date NOT NULL,                      -- first day of the current period; 2000-01-01 for 'total'
    spent_eur   numeric(18, 9) NOT NULL DEFAULT 0,  -- cost of the recorded calls of this period
    held_eur    numeric(18, 9) NOT NULL DEFAULT 0   -- granted - charged, over the open leases of this period
);

-- Money lent to one worker. It stays held until the calls paid from it are recorded, or the worker gives it back.
CREATE TABLE leases (
    id            text PRIMARY KEY,
    worker        text NOT NULL,
    project       text NOT NULL REFERENCES projects (id),
    starts_on     date NOT NULL,                      -- the period it was taken in
    granted_eur   numeric(18, 9) NOT NULL,            -- lent, less what was given back
    charged_eur   numeric(18, 9) NOT NULL DEFAULT 0,  -- cost of the calls recorded against it
    heartbeat_at  timestamptz NOT NULL DEFAULT now(), -- moved by the living worker
    closed_at     timestamptz                         -- set by the worker, by its successor, or by a write-off
);
CREATE INDEX leases_open ON leases (worker) WHERE closed_at IS NULL;
