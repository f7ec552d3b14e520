-- set_budget --
-- Sets the limit of a project; a new kind of period starts from what its calls already cost in it.
INSERT INTO budgets (project, period, limit_eur, starts_on, spent_eur)
VALUES (%(project)s, %(period)s, %(limit_eur)s::numeric, %(starts_on)s::date,
        (SELECT coalesce(sum(cost_eur), 0) FROM calls
         WHERE project = %(project)s AND at >= (%(starts_on)s::date)::timestamp AT TIME ZONE 'UTC'))
ON CONFLICT (project) DO UPDATE SET
    limit_eur = EXCLUDED.limit_eur,
    period = EXCLUDED.period,
    starts_on = CASE WHEN budgets.period = EXCLUDED.period THEN budgets.starts_on ELSE EXCLUDED.starts_on END,
    spent_eur = CASE WHEN budgets.period = EXCLUDED.period THEN budgets.spent_eur ELSE EXCLUDED.spent_eur END,
    held_eur = CASE WHEN budgets.period = EXCLUDED.period THEN budgets.held_eur ELSE (
        SELECT coalesce(sum(granted_eur - charged_eur), 0) FROM leases
        WHERE project = EXCLUDED.project AND closed_at IS NULL AND starts_on = EXCLUDED.starts_on) END;

-- drop_budget --
-- Leaves a project without a limit.
DELETE FROM budgets WHERE project = %(project)s;

-- budgets --
-- The budgets of several projects.
SELECT project, period, limit_eur, starts_on, spent_eur, held_eur FROM budgets
WHERE project = ANY(%(projects)s::text[]);

-- hold --
-- Lends money if the limit leaves it, moving the row to the present period on its first lease.
UPDATE budgets SET
    spent_eur = CASE WHEN starts_on < %(starts_on)s::date THEN 0 ELSE spent_eur END,
    held_eur = CASE WHEN starts_on < %(starts_on)s::date THEN 0 ELSE held_eur END + %(amount)s::numeric,
    starts_on = greatest(starts_on, %(starts_on)s::date)
WHERE project = %(project)s
  AND CASE WHEN starts_on < %(starts_on)s::date THEN 0 ELSE spent_eur + held_eur END + %(amount)s::numeric <= limit_eur
RETURNING starts_on;

-- lend --
-- Writes the loan into the lease of the worker; nothing when that lease was closed meanwhile.
INSERT INTO leases (id, worker, project, starts_on, granted_eur)
VALUES (%(id)s, %(worker)s, %(project)s, %(starts_on)s::date, %(amount)s::numeric)
ON CONFLICT (id) DO UPDATE SET granted_eur = leases.granted_eur + EXCLUDED.granted_eur, heartbeat_at = now()
WHERE leases.closed_at IS NULL
RETURNING granted_eur;

-- give_back --
-- Returns unused money of an open lease.
UPDATE leases SET granted_eur = granted_eur - %(amount)s::numeric WHERE id = %(id)s AND closed_at IS NULL
RETURNING granted_eur;

-- release --
-- Stops holding money in the budget of the period it was lent in.
UPDATE budgets SET held_eur = held_eur - %(amount)s::numeric
WHERE project = %(project)s AND starts_on = %(starts_on)s::date;

-- lock_budgets --
-- Locks the budgets that a batch of calls will charge, always in the same order.
SELECT project FROM budgets WHERE project = ANY(%(projects)s::text[]) ORDER BY project FOR UPDATE;

-- charge --
-- Adds the cost of recorded calls to their lease, and says what that lease was.
UPDATE leases SET charged_eur = charged_eur + %(cost)s::numeric WHERE id = %(id)s
RETURNING project, starts_on, closed_at IS NULL AS open;

-- spend --
-- Turns held money of a budget into spent money.
UPDATE budgets SET spent_eur = spent_eur + %(spent)s::numeric, held_eur = held_eur - %(freed)s::numeric
WHERE project = %(project)s AND starts_on = %(starts_on)s::date;

-- close_leases --
-- Ends the open leases of a worker and says what each still held.
UPDATE leases SET closed_at = now() WHERE worker = %(worker)s AND closed_at IS NULL
RETURNING id, project, starts_on, granted_eur - charged_eur AS remaining_eur;

-- lease_projects --
-- The projects a worker holds open leases on.
SELECT DISTINCT project FROM leases WHERE worker = %(worker)s AND closed_at IS NULL;

-- heartbeat --
-- Shows that a worker lives, and gives the state of its open leases.
UPDATE leases SET heartbeat_at = now() WHERE worker = %(worker)s AND closed_at IS NULL
RETURNING id;

-- silent_leases --
-- Open leases whose worker has not been heard for a while: their money stays held until settled.
SELECT worker, project, starts_on, granted_eur, charged_eur, heartbeat_at FROM leases
WHERE closed_at IS NULL AND heartbeat_at < now() - make_interval(secs => %(age_s)s)
ORDER BY heartbeat_at;

-- drift --
-- Projects whose budget does not agree with the calls paid from its leases, or with what those leases hold.
SELECT b.project, b.spent_eur, b.held_eur, l.charged_eur, l.remaining_eur, c.cost_eur
FROM budgets b
LEFT JOIN LATERAL (
    SELECT coalesce(sum(charged_eur), 0) AS charged_eur,
           coalesce(sum(granted_eur - charged_eur) FILTER (WHERE closed_at IS NULL), 0) AS remaining_eur
    FROM leases WHERE project = b.project AND starts_on = b.starts_on) l ON true
LEFT JOIN LATERAL (
    SELECT coalesce(sum(calls.cost_eur), 0) AS cost_eur FROM calls JOIN leases ON leases.id = calls.lease
    WHERE leases.project = b.project AND leases.starts_on = b.starts_on) c ON true
WHERE l.charged_eur <> c.cost_eur OR b.held_eur <> l.remaining_eur
ORDER BY b.project;
