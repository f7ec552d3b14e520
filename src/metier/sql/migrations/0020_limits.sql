-- What may be used, by whom, in which period, and what happens when it is used up. Rows are made by people.
CREATE TABLE limits (
    id              text PRIMARY KEY,
    scope           text NOT NULL CHECK (scope IN ('organisation', 'project', 'system', 'key', 'end_user')),
    subject         text NOT NULL,        -- id of what is limited; for 'end_user' that of whose end users, each one alone
    measure         text NOT NULL CHECK (measure IN (
        'requests', 'tokens',
        'concurrency',                    -- calls under way
        'money',                          -- euros
        'energy',                         -- watt-hours, upper bound of the estimate
        'carbon'                          -- grams of CO2 equivalent, upper bound of the estimate
    )),
    period          text NOT NULL CHECK (period IN ('now', 'minute', 'day', 'month', 'total')),   -- days, months: UTC
    amount          numeric(24, 9) NOT NULL CHECK (amount >= 0),
    action          text NOT NULL CHECK (action IN (
        'refuse',
        'degrade',                        -- calls go to the model degrade_to instead
        'alert'                           -- nothing but alerts
    )),
    degrade_to      text,
    unknown_passes  boolean NOT NULL DEFAULT false,   -- calls whose footprint is unknown pass, counted as nothing
    created_at      timestamptz NOT NULL DEFAULT now(),
    created_by      text NOT NULL,
    UNIQUE (scope, subject, measure, period, action),
    CHECK ((measure = 'concurrency') = (period = 'now')),
    CHECK (period <> 'minute' OR measure IN ('requests', 'tokens')),
    CHECK ((action = 'degrade') = (degrade_to IS NOT NULL)),
    CHECK (action = 'refuse' OR period IN ('day', 'month', 'total'))
);

-- Where each limit per day, month or in total stands. The row is moved to the next period by the first lease in it.
CREATE TABLE standings (
    limit_id    text NOT NULL REFERENCES limits (id) ON DELETE CASCADE,
    member      text NOT NULL,                      -- keyed digest of one end user; empty for every other scope
    starts_on   date NOT NULL,                      -- first day of the current period; 2000-01-01 for 'total'
    spent       numeric(24, 9) NOT NULL DEFAULT 0,  -- used by the recorded calls of this period
    held        numeric(24, 9) NOT NULL DEFAULT 0,  -- granted - charged, over the open leases of this period
    PRIMARY KEY (limit_id, member)
);

INSERT INTO limits (id, scope, subject, measure, period, amount, action, created_by)
SELECT 'limit_' || substr(md5(project), 1, 19), 'project', project, 'money', period, limit_eur, 'refuse', 'migration'
FROM budgets;
INSERT INTO standings (limit_id, member, starts_on, spent, held)
SELECT 'limit_' || substr(md5(project), 1, 19), '', starts_on, spent_eur, held_eur FROM budgets;

-- A lease is lent by one limit, to one worker, for one period.
ALTER TABLE leases RENAME COLUMN granted_eur TO granted;
ALTER TABLE leases RENAME COLUMN charged_eur TO charged;
ALTER TABLE leases ALTER COLUMN granted TYPE numeric(24, 9), ALTER COLUMN charged TYPE numeric(24, 9);
ALTER TABLE leases ADD COLUMN limit_id text, ADD COLUMN member text NOT NULL DEFAULT '',
    ADD COLUMN measure text NOT NULL DEFAULT 'money';
UPDATE leases SET limit_id = 'limit_' || substr(md5(project), 1, 19);
ALTER TABLE leases ALTER COLUMN limit_id SET NOT NULL, DROP COLUMN project;
CREATE INDEX leases_by_limit ON leases (limit_id, member, starts_on);
DROP TABLE budgets;

-- What counts against a limit per minute or of concurrency until a moment: slices of a minute and permits, lent to
-- workers. Not logged: after a crash of the database the minute begins anew.
CREATE UNLOGGED TABLE grants (
    limit_id    text NOT NULL,
    member      text NOT NULL,
    worker      text NOT NULL,
    slot        bigint NOT NULL,           -- the second until which a slice may be used; 0 for permits
    amount      bigint NOT NULL,
    until       double precision NOT NULL, -- seconds since 1970; from then on it counts no more
    PRIMARY KEY (limit_id, member, worker, slot)
);
CREATE INDEX grants_by_end ON grants (until);
