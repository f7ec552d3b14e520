-- cross --
-- Writes down which parts of limits are used up now, once per period, and tells the feed.
WITH crossed AS (
    SELECT l.id AS limit_id, s.starts_on, k.kind, s.spent, jsonb_build_object(
            'scope', l.scope, 'subject', l.subject, 'measure', l.measure, 'period', l.period, 'amount', l.amount,
            'action', l.action, 'degrade_to', l.degrade_to,
            'name', coalesce(o.name, p.name, keys.name, systems.name)) AS told,
        coalesce(o.id, p.organisation, kp.organisation, 'main') AS organisation
    FROM standings s JOIN limits l ON l.id = s.limit_id
    CROSS JOIN (VALUES ('50', 0.5), ('80', 0.8), ('100', 1.0)) AS k (kind, part)
    LEFT JOIN organisations o ON l.scope = 'organisation' AND o.id = l.subject
    LEFT JOIN projects p ON l.scope = 'project' AND p.id = l.subject
    LEFT JOIN keys ON l.scope = 'key' AND keys.id = l.subject
    LEFT JOIN systems ON l.scope = 'system' AND systems.id = l.subject
    LEFT JOIN projects kp ON kp.id = keys.project
    WHERE s.limit_id = ANY(%(limits)s::text[]) AND l.scope <> 'end_user' AND l.amount > 0
      AND s.spent >= l.amount * k.part
), new AS (
    INSERT INTO alerts (id, limit_id, starts_on, kind, spent, told)
    SELECT 'alert_' || replace(gen_random_uuid()::text, '-', ''), limit_id, starts_on, kind, spent, told
    FROM crossed ORDER BY limit_id, kind
    ON CONFLICT (limit_id, starts_on, kind) DO NOTHING
    RETURNING id, limit_id, starts_on, kind
)
INSERT INTO feed (organisation, kind, body)
SELECT c.organisation, 'limit', c.told || jsonb_build_object(
    'alert', new.id, 'kind', c.kind, 'spent', c.spent, 'starts_on', c.starts_on)
FROM new JOIN crossed c USING (limit_id, starts_on, kind);

-- forecast --
-- Writes down which limits would be passed at the end of their period if use went on as it has, and tells the feed.
WITH running AS (
    SELECT l.*, s.starts_on, s.spent,
        extract(epoch FROM %(now)s::timestamptz - s.starts_on::timestamp AT TIME ZONE 'UTC')
        / extract(epoch FROM CASE l.period WHEN 'day' THEN interval '1 day'
            ELSE (s.starts_on + interval '1 month') - s.starts_on END) AS part
    FROM standings s JOIN limits l ON l.id = s.limit_id
    WHERE l.period IN ('day', 'month') AND l.scope <> 'end_user' AND s.spent > 0 AND s.spent < l.amount
), passed AS (
    SELECT r.id AS limit_id, r.starts_on, r.spent, (r.spent / r.part::numeric)::numeric(24, 9) AS forecast,
        jsonb_build_object(
            'scope', r.scope, 'subject', r.subject, 'measure', r.measure, 'period', r.period, 'amount', r.amount,
            'action', r.action, 'degrade_to', r.degrade_to,
            'name', coalesce(o.name, p.name, keys.name, systems.name)) AS told,
        coalesce(o.id, p.organisation, kp.organisation, 'main') AS organisation
    FROM running r
    LEFT JOIN organisations o ON r.scope = 'organisation' AND o.id = r.subject
    LEFT JOIN projects p ON r.scope = 'project' AND p.id = r.subject
    LEFT JOIN keys ON r.scope = 'key' AND keys.id = r.subject
    LEFT JOIN systems ON r.scope = 'system' AND systems.id = r.subject
    LEFT JOIN projects kp ON kp.id = keys.project
    WHERE r.part >= %(least)s AND r.part <= 1 AND r.spent / r.part::numeric > r.amount
), new AS (
    INSERT INTO alerts (id, limit_id, starts_on, kind, spent, forecast, told)
    SELECT 'alert_' || replace(gen_random_uuid()::text, '-', ''), limit_id, starts_on, 'forecast', spent, forecast, told
    FROM passed ORDER BY limit_id
    ON CONFLICT (limit_id, starts_on, kind) DO NOTHING
    RETURNING id, limit_id
)
INSERT INTO feed (organisation, kind, body)
SELECT p.organisation, 'limit', p.told || jsonb_build_object(
    'alert', new.id, 'kind', 'forecast', 'spent', p.spent, 'forecast', p.forecast, 'starts_on', p.starts_on)
FROM new JOIN passed p USING (limit_id);

-- address --
-- Makes a delivery of every new alert to every address.
WITH new AS (
    UPDATE alerts SET addressed = true WHERE NOT addressed RETURNING id
)
INSERT INTO deliveries (alert, channel, target)
SELECT new.id, c.channel, c.target FROM new, unnest(%(channels)s::text[], %(targets)s::text[]) AS c (channel, target)
ON CONFLICT DO NOTHING;

-- claim --
-- Takes deliveries that are due, moving them first, so that a worker that dies leaves them to be tried again.
WITH due AS (
    SELECT alert, channel, target FROM deliveries WHERE state = 'waiting' AND due_at <= now()
    ORDER BY due_at LIMIT 10 FOR UPDATE SKIP LOCKED
)
UPDATE deliveries d SET
    attempts = d.attempts + 1,
    due_at = now() + make_interval(secs => least(14400, 30 * power(2, d.attempts)))
FROM due JOIN alerts a ON a.id = due.alert
WHERE d.alert = due.alert AND d.channel = due.channel AND d.target = due.target
RETURNING d.alert AS id, d.channel, d.target, d.attempts, a.kind, a.starts_on, a.spent, a.forecast, a.at, a.told;

-- taken --
-- A delivery reached its address.
UPDATE deliveries SET state = 'sent', error = NULL
WHERE alert = %(id)s AND channel = %(channel)s AND target = %(target)s;

-- not_taken --
-- A delivery failed: it is tried again unless that is of no use.
UPDATE deliveries SET error = %(error)s, state = CASE WHEN %(final)s::boolean THEN 'failed' ELSE state END
WHERE alert = %(id)s AND channel = %(channel)s AND target = %(target)s;

-- alerts --
-- The alerts of late, newest first, with how many deliveries reached their address.
SELECT a.id, a.limit_id, a.kind, a.starts_on, a.spent, a.forecast, a.at, a.told,
       count(d.alert) AS deliveries, count(d.alert) FILTER (WHERE d.state = 'sent') AS sent,
       max(d.error) FILTER (WHERE d.state <> 'sent') AS error
FROM alerts a LEFT JOIN deliveries d ON d.alert = a.id
GROUP BY a.id ORDER BY a.at DESC, a.id LIMIT %(most)s;

-- feed --
-- What people of one organisation, or of all, should see after a point, oldest first.
SELECT id, at, organisation, kind, body FROM feed
WHERE (%(organisation)s::text IS NULL OR organisation = %(organisation)s) AND id > %(after)s
ORDER BY id LIMIT %(most)s;
