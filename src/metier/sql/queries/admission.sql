-- open_standing --
-- Makes the standing of a limit the first time it is used, from what its calls already used in the period.
INSERT INTO standings (limit_id, member, starts_on, spent)
SELECT l.id, %(member)s, %(starts_on)s::date, CASE WHEN l.scope = 'end_user' THEN 0 ELSE (
    SELECT coalesce(sum(CASE l.measure
        WHEN 'money' THEN c.cost_eur
        WHEN 'requests' THEN 1
        WHEN 'tokens' THEN c.input_tokens + c.output_tokens
        WHEN 'energy' THEN round((coalesce(c.energy_high_kwh, 0) * 1000)::numeric, 9)
        ELSE round(coalesce(c.carbon_high_g, 0)::numeric, 9) END), 0)
    FROM calls c
    WHERE c.at >= (%(starts_on)s::date)::timestamp AT TIME ZONE 'UTC'
      AND l.subject = CASE l.scope WHEN 'organisation' THEN c.organisation WHEN 'project' THEN c.project
                                   WHEN 'system' THEN c.system ELSE c.key END) END
FROM limits l WHERE l.id = %(limit)s
ON CONFLICT DO NOTHING;

-- hold --
-- Lends if the limit leaves it or is not enforced, moving the row to the present period on its first lease.
UPDATE standings s SET
    spent = CASE WHEN s.starts_on < %(starts_on)s::date THEN 0 ELSE s.spent END,
    held = CASE WHEN s.starts_on < %(starts_on)s::date THEN 0 ELSE s.held END + %(amount)s::numeric,
    starts_on = greatest(s.starts_on, %(starts_on)s::date)
FROM limits l
WHERE l.id = s.limit_id AND s.limit_id = %(limit)s AND s.member = %(member)s
  AND (%(forced)s::boolean
       OR CASE WHEN s.starts_on < %(starts_on)s::date THEN 0 ELSE s.spent + s.held END + %(amount)s::numeric
          <= l.amount)
RETURNING s.starts_on, l.amount - s.spent - s.held AS remaining;

-- lend --
-- Writes the loan into the lease of the worker; nothing when that lease was closed meanwhile.
INSERT INTO leases (id, worker, limit_id, member, measure, starts_on, granted)
VALUES (%(id)s, %(worker)s, %(limit)s, %(member)s, %(measure)s, %(starts_on)s::date, %(amount)s::numeric)
ON CONFLICT (id) DO UPDATE SET granted = leases.granted + EXCLUDED.granted, heartbeat_at = now()
WHERE leases.closed_at IS NULL
RETURNING granted;

-- give_back --
-- Returns the unused part of an open lease.
UPDATE leases SET granted = granted - %(amount)s::numeric WHERE id = %(id)s AND closed_at IS NULL
RETURNING granted;

-- release --
-- Stops holding an amount in the period it was lent in.
UPDATE standings SET held = held - %(amount)s::numeric
WHERE limit_id = %(limit)s AND member = %(member)s AND starts_on = %(starts_on)s::date;

-- lock_standing --
-- Locks one standing, before its leases.
SELECT limit_id FROM standings WHERE limit_id = %(limit)s AND member = %(member)s FOR UPDATE;

-- lock_standings --
-- Locks the standings behind leases, always in the same order.
SELECT s.limit_id FROM standings s
WHERE (s.limit_id, s.member) IN (SELECT limit_id, member FROM leases WHERE id = ANY(%(leases)s::text[]))
ORDER BY s.limit_id, s.member FOR UPDATE;

-- charge --
-- Adds what recorded calls used to their leases and turns what was held into what is spent.
WITH used AS (
    SELECT h.lease, sum(CASE
        WHEN h.held IS NOT NULL AND r.outcome = 'lost' THEN h.held
        WHEN l.measure = 'money' THEN r.cost_eur
        WHEN l.measure = 'requests' THEN 1
        WHEN l.measure = 'tokens' THEN r.tokens
        WHEN l.measure = 'energy' THEN round(coalesce(r.energy_wh, 0)::numeric, 9)
        ELSE round(coalesce(r.carbon_g, 0)::numeric, 9) END) AS amount
    FROM jsonb_to_recordset(%(rows)s::text::jsonb) AS r (
        lease text, outcome text, cost_eur numeric, tokens bigint,
        energy_wh double precision, carbon_g double precision),
    LATERAL (SELECT split_part(one, '=', 1) AS lease, nullif(split_part(one, '=', 2), '')::numeric AS held
             FROM unnest(string_to_array(r.lease, ' ')) AS one) h
    JOIN leases l ON l.id = h.lease
    GROUP BY h.lease
), charged AS (
    UPDATE leases l SET charged = l.charged + used.amount FROM used WHERE l.id = used.lease
    RETURNING l.limit_id, l.member, l.starts_on, used.amount, l.closed_at IS NULL AS open
), totals AS (
    SELECT limit_id, member, starts_on, sum(amount) AS spent, coalesce(sum(amount) FILTER (WHERE open), 0) AS freed
    FROM charged GROUP BY 1, 2, 3
)
UPDATE standings s SET spent = s.spent + totals.spent, held = s.held - totals.freed FROM totals
WHERE s.limit_id = totals.limit_id AND s.member = totals.member AND s.starts_on = totals.starts_on
RETURNING s.limit_id, s.member;

-- forget --
-- Notes on their leases what calls used whose records are deleted.
WITH used AS (
    SELECT h.lease, sum(CASE
        WHEN h.held IS NOT NULL AND r.outcome = 'lost' THEN h.held
        WHEN l.measure = 'money' THEN r.cost_eur
        WHEN l.measure = 'requests' THEN 1
        WHEN l.measure = 'tokens' THEN r.tokens
        WHEN l.measure = 'energy' THEN round(coalesce(r.energy_wh, 0)::numeric, 9)
        ELSE round(coalesce(r.carbon_g, 0)::numeric, 9) END) AS amount
    FROM jsonb_to_recordset(%(rows)s::text::jsonb) AS r (
        lease text, outcome text, cost_eur numeric, tokens bigint,
        energy_wh double precision, carbon_g double precision),
    LATERAL (SELECT split_part(one, '=', 1) AS lease, nullif(split_part(one, '=', 2), '')::numeric AS held
             FROM unnest(string_to_array(r.lease, ' ')) AS one) h
    JOIN leases l ON l.id = h.lease
    GROUP BY h.lease
)
UPDATE leases l SET forgotten = l.forgotten + used.amount FROM used WHERE l.id = used.lease;

-- worker_leases --
-- The open leases of a worker.
SELECT id FROM leases WHERE worker = %(worker)s AND closed_at IS NULL ORDER BY id;

-- close_leases --
-- Ends the open leases of a worker and frees what each still held, or counts it as spent.
WITH closed AS (
    UPDATE leases SET closed_at = now() WHERE worker = %(worker)s AND closed_at IS NULL
    RETURNING limit_id, member, measure, starts_on, granted - charged AS remaining
), totals AS (
    SELECT limit_id, member, starts_on, sum(remaining) AS remaining FROM closed GROUP BY 1, 2, 3
), freed AS (
    UPDATE standings s SET
        held = s.held - totals.remaining,
        spent = s.spent + CASE WHEN %(lost)s::boolean THEN totals.remaining ELSE 0 END
    FROM totals
    WHERE s.limit_id = totals.limit_id AND s.member = totals.member AND s.starts_on = totals.starts_on
)
SELECT limit_id, measure, remaining FROM closed;

-- heartbeat --
-- Shows that a worker lives, and gives its open leases.
WITH mine AS (
    SELECT id FROM leases WHERE worker = %(worker)s AND closed_at IS NULL ORDER BY id FOR UPDATE
)
UPDATE leases SET heartbeat_at = now() FROM mine WHERE leases.id = mine.id
RETURNING leases.id;

-- silent_leases --
-- Open leases whose worker has not been heard for a while: what they hold stays held until settled.
SELECT e.worker, l.scope, l.subject, e.measure, e.starts_on, e.granted, e.charged, e.heartbeat_at
FROM leases e LEFT JOIN limits l ON l.id = e.limit_id
WHERE e.closed_at IS NULL AND e.heartbeat_at < now() - make_interval(secs => %(age_s)s)
ORDER BY e.heartbeat_at;

-- drift --
-- Limits that do not agree with the calls recorded on their leases, or with what those leases hold.
SELECT l.id, l.scope, l.subject, l.measure, l.period, s.spent, s.held, e.charged, e.remaining, c.used + e.forgotten AS used
FROM standings s JOIN limits l ON l.id = s.limit_id
LEFT JOIN LATERAL (
    SELECT coalesce(sum(charged), 0) AS charged, coalesce(sum(forgotten), 0) AS forgotten,
           coalesce(sum(granted - charged) FILTER (WHERE closed_at IS NULL), 0) AS remaining
    FROM leases WHERE limit_id = s.limit_id AND member = s.member AND starts_on = s.starts_on) e ON true
LEFT JOIN LATERAL (
    SELECT coalesce(sum(CASE
        WHEN calls.outcome = 'lost' AND split_part(one, '=', 2) <> '' THEN split_part(one, '=', 2)::numeric
        WHEN l.measure = 'money' THEN calls.cost_eur
        WHEN l.measure = 'requests' THEN 1
        WHEN l.measure = 'tokens' THEN calls.input_tokens + calls.output_tokens
        WHEN l.measure = 'energy' THEN round((coalesce(calls.energy_high_kwh, 0) * 1000)::numeric, 9)
        ELSE round(coalesce(calls.carbon_high_g, 0)::numeric, 9) END), 0) AS used
    FROM calls, unnest(string_to_array(calls.lease, ' ')) AS one JOIN leases e2 ON e2.id = split_part(one, '=', 1)
    WHERE calls.at >= (s.starts_on - 1)::timestamp AT TIME ZONE 'UTC'
      AND e2.limit_id = s.limit_id AND e2.member = s.member AND e2.starts_on = s.starts_on) c ON true
WHERE abs(e.charged - c.used - e.forgotten) > 0.000001 OR s.held <> e.remaining
ORDER BY l.scope, l.subject, l.measure;

-- forget_leases --
-- Deletes closed leases of periods long over, and standings of end users not seen since.
WITH old AS (
    DELETE FROM leases WHERE closed_at < now() - interval '70 days' AND starts_on > '2000-01-01' RETURNING 1
)
DELETE FROM standings WHERE member <> '' AND starts_on > '2000-01-01' AND starts_on < current_date - 70;

-- lock_grants --
-- Lets one worker at a time count what is lent of a limit.
SELECT pg_advisory_xact_lock(hashtextextended(%(limit)s || ' ' || %(member)s, 20));

-- grant --
-- Lends a part of a minute, or permits, as far as the limit leaves it: all that is needed or nothing.
WITH moment AS (
    SELECT coalesce(%(now)s::double precision, extract(epoch FROM clock_timestamp())::double precision) AS now
), gone AS (
    DELETE FROM grants USING moment
    WHERE limit_id = %(limit)s AND member = %(member)s AND slot <> 0 AND until <= moment.now
), live AS (
    SELECT g.until, g.amount, sum(g.amount) OVER (ORDER BY g.until) AS freed FROM grants g, moment
    WHERE g.limit_id = %(limit)s AND g.member = %(member)s AND g.until > moment.now AND g.amount > 0
), used AS (
    SELECT coalesce(sum(amount), 0)::bigint AS amount, array_agg(until ORDER BY until) AS untils,
        array_agg(amount ORDER BY until) AS amounts
    FROM live
), offer AS (
    SELECT greatest(0, least(%(wish)s::bigint, %(most)s::bigint - used.amount)) AS amount FROM used
), lent AS (
    INSERT INTO grants (limit_id, member, worker, slot, amount, until)
    SELECT %(limit)s, %(member)s, %(worker)s, CASE WHEN %(span_s)s::bigint = 0 THEN 0 ELSE floor(now)::bigint + 2 END,
           offer.amount,
           CASE WHEN %(span_s)s::bigint = 0 THEN now + %(life_s)s::bigint ELSE floor(now) + 2 + %(span_s)s::bigint END
    FROM offer, moment WHERE offer.amount >= %(need)s::bigint
    ON CONFLICT (limit_id, member, worker, slot)
    DO UPDATE SET
        amount = EXCLUDED.amount + CASE WHEN grants.until > (SELECT now FROM moment) THEN grants.amount ELSE 0 END,
        until = greatest(grants.until, EXCLUDED.until)
    RETURNING slot
)
SELECT moment.now, used.amount AS used, used.untils, used.amounts, offer.amount, (SELECT slot FROM lent) AS slot,
    (SELECT min(live.until) FROM live WHERE live.freed >= %(need)s::bigint - (%(most)s::bigint - used.amount))
        AS enough_at
FROM moment, used, offer;

-- adjust --
-- Corrects what a slice counts for, by what its calls really used or by what was left unused.
UPDATE grants SET amount = greatest(0, amount + %(change)s::bigint)
WHERE limit_id = %(limit)s AND member = %(member)s AND worker = %(worker)s AND slot = %(slot)s::bigint;

-- renew --
-- Keeps the permits of a living worker counted, exactly those it holds.
INSERT INTO grants (limit_id, member, worker, slot, amount, until)
SELECT limit_id, member, %(worker)s, 0, amount,
       coalesce(%(now)s::double precision, extract(epoch FROM clock_timestamp())::double precision) + %(life_s)s::bigint
FROM unnest(%(limits)s::text[], %(members)s::text[], %(amounts)s::bigint[]) AS h (limit_id, member, amount)
ORDER BY limit_id, member
ON CONFLICT (limit_id, member, worker, slot) DO UPDATE SET amount = EXCLUDED.amount, until = EXCLUDED.until;

-- leave --
-- Takes the permits of a worker that ends out of the count.
DELETE FROM grants WHERE worker = %(worker)s AND slot = 0;

-- forget_grants --
-- Deletes what counts no more.
DELETE FROM grants WHERE until < extract(epoch FROM clock_timestamp()) - 5;
