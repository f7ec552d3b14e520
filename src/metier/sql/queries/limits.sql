-- set_limit --
-- Makes a limit, or changes the amount of the one that is there.
INSERT INTO limits (id, scope, subject, measure, period, amount, action, degrade_to, unknown_passes, created_by)
VALUES (%(id)s, %(scope)s, %(subject)s, %(measure)s, %(period)s, %(amount)s::numeric, %(action)s, %(degrade_to)s,
        %(unknown_passes)s, %(by)s)
ON CONFLICT (scope, subject, measure, period, action) DO UPDATE SET
    amount = EXCLUDED.amount, degrade_to = EXCLUDED.degrade_to, unknown_passes = EXCLUDED.unknown_passes
RETURNING id, scope, subject, measure, period, amount, action, degrade_to, unknown_passes;

-- drop_limits --
-- Removes limits, with where they stand.
DELETE FROM limits WHERE id = ANY(%(ids)s::text[]) RETURNING id;

-- limits_of --
-- The limits of one subject, or of all.
SELECT id, scope, subject, measure, period, amount, action, degrade_to, unknown_passes FROM limits
WHERE %(subject)s::text IS NULL OR subject = %(subject)s
ORDER BY scope, subject, measure, period, action;

-- applying --
-- The limits that hold for each of several callers.
SELECT w.who, l.id, l.scope, l.subject, l.measure, l.period, l.amount, l.action, l.degrade_to, l.unknown_passes
FROM unnest(%(whos)s::text[], %(organisations)s::text[], %(projects)s::text[], %(systems)s::text[], %(keys)s::text[])
    AS w (who, organisation, project, system, key)
JOIN limits l ON (l.scope = 'organisation' AND l.subject = w.organisation)
    OR (l.scope = 'project' AND l.subject = w.project)
    OR (l.scope = 'system' AND l.subject = w.system)
    OR (l.scope = 'key' AND l.subject = w.key)
    OR (l.scope = 'end_user' AND l.subject = ANY (ARRAY[w.organisation, w.project, w.system, w.key]))
ORDER BY w.who, l.amount;

-- owners --
-- Who owns a subject of limits, from the organisation down to itself.
SELECT o.id AS organisation, NULL AS project FROM organisations o WHERE o.id = %(subject)s AND %(scope)s = 'organisation'
UNION ALL
SELECT p.organisation, p.id FROM projects p WHERE p.id = %(subject)s AND %(scope)s IN ('project', 'end_user')
UNION ALL
SELECT p.organisation, p.id FROM keys k JOIN projects p ON p.id = k.project
WHERE k.id = %(subject)s AND %(scope)s IN ('key', 'end_user')
UNION ALL
SELECT NULL, NULL FROM systems s WHERE s.id = %(subject)s AND %(scope)s IN ('system', 'end_user')
UNION ALL
SELECT o.id, NULL FROM organisations o WHERE o.id = %(subject)s AND %(scope)s = 'end_user';

-- standing --
-- Where the limits of one subject stand, or all; those of end users are summed up.
SELECT l.id, l.scope, l.subject, l.measure, l.period, l.amount, l.action, l.degrade_to, l.unknown_passes,
       max(s.starts_on) AS starts_on, coalesce(sum(s.spent), 0) AS spent, coalesce(sum(s.held), 0) AS held,
       count(s.limit_id) AS members,
       coalesce((SELECT sum(g.amount) FROM grants g WHERE g.limit_id = l.id
                 AND g.until > extract(epoch FROM clock_timestamp())), 0)::bigint AS counted
FROM limits l LEFT JOIN standings s ON s.limit_id = l.id
WHERE %(subject)s::text IS NULL OR l.subject = %(subject)s
GROUP BY l.id ORDER BY l.scope, l.subject, l.measure, l.period, l.action;

-- name_of --
-- What people call the subject of a limit.
SELECT name FROM organisations WHERE id = %(subject)s
UNION ALL SELECT name FROM projects WHERE id = %(subject)s
UNION ALL SELECT name FROM systems WHERE id = %(subject)s
UNION ALL SELECT name FROM keys WHERE id = %(subject)s
LIMIT 1;
