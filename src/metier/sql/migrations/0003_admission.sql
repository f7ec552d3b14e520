-- What a project may spend per period. No row: the project has no limit.
CREATE TABLE budgets (
    project     text PRIMARY KEY REFERENCES projects (id),
    period      text NOT NULL CHECK (period IN ('day', 'month', 'total')),  -- days and months are UTC
    limit_eur   numeric(18, 9) NOT NULL CHECK (limit_eur >= 0)
);

-- The money of one period: spent by recorded calls, or held by leases of workers.
CREATE TABLE budget_periods (
    project     text NOT NULL,
    starts_on   date NOT NULL,                -- 0001-01-01 for the period 'total'
    spent_eur   numeric(18, 9) NOT NULL DEFAULT 0,
    held_eur    numeric(18, 9) NOT NULL DEFAULT 0,  -- sum of granted - charged over open leases
    PRIMARY KEY (project, starts_on)
);

-- Money lent to one worker. It stays held until the calls paid from it are recorded, or the worker gives it back.
CREATE TABLE leases (
    id            text PRIMARY KEY,
    worker        text NOT NULL,
    project       text NOT NULL,
    starts_on     date NOT NULL,
    granted_eur   numeric(18, 9) NOT NULL,            -- lent, less what was given back
    charged_eur   numeric(18, 9) NOT NULL DEFAULT 0,  -- cost of the calls recorded against it
    heartbeat_at  timestamptz NOT NULL DEFAULT now(), -- moved by the living worker
    closed_at     timestamptz,                        -- set by the worker, its successor, or a write-off
    FOREIGN KEY (project, starts_on) REFERENCES budget_periods (project, starts_on)
);
CREATE INDEX leases_open ON leases (worker) WHERE closed_at IS NULL;
