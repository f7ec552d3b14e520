-- insert_calls --
-- Records a batch of calls and their hour's totals, each once by its id; says which were new and what they cost.
WITH new AS (
    INSERT INTO calls (
        id, at, key, organisation, project, system, end_user, model, deployment, operation, outcome, error_code,
        error_cause, input_tokens, output_tokens, cached_tokens, cache_write_tokens, reasoning_tokens, estimated,
        cost_eur, priced, reserved_eur, lease, cache, saved_eur, saved_kwh, tries, shadow_of,
        energy_low_kwh, energy_high_kwh, carbon_low_g, carbon_high_g, method, zone,
        duration_s, first_token_s, masked, run, path, attempt, conversation, route)
    SELECT
        id, to_timestamp(at), key, organisation, project, system, end_user, model, deployment, operation, outcome,
        error_code, error_cause, input_tokens, output_tokens, cached_tokens, coalesce(cache_write_tokens, 0),
        coalesce(reasoning_tokens, 0), estimated,
        cost_eur, priced, reserved_eur, nullif(lease, ''), cache, coalesce(saved_eur, 0), saved_kwh,
        coalesce(tries, 1), shadow_of,
        energy_low_kwh, energy_high_kwh, carbon_low_g, carbon_high_g, method, zone,
        duration_s, first_token_s, masked, run, path, attempt, conversation, route
    FROM jsonb_to_recordset(%(rows)s::text::jsonb) AS r (
        id text, at double precision, key text, organisation text, project text, system text, end_user text,
        model text, deployment text, operation text, outcome text, error_code text, error_cause text,
        input_tokens bigint, output_tokens bigint, cached_tokens bigint, cache_write_tokens bigint,
        reasoning_tokens bigint, estimated boolean,
        cost_eur numeric, priced boolean, reserved_eur numeric, lease text,
        cache text, saved_eur numeric, saved_kwh double precision, tries smallint, shadow_of text,
        energy_low_kwh double precision, energy_high_kwh double precision,
        carbon_low_g double precision, carbon_high_g double precision, method text, zone text,
        duration_s double precision, first_token_s double precision, masked jsonb,
        run text, path text, attempt integer, conversation text, route text)
    ON CONFLICT (id) DO NOTHING
    RETURNING *
), totals AS (
    INSERT INTO usage_hours AS u
    SELECT
        date_trunc('hour', at, 'UTC') AS hour, organisation, project, system, model, count(*),
        count(*) FILTER (WHERE outcome <> 'answered'), sum(input_tokens), sum(output_tokens), sum(cost_eur),
        count(*) FILTER (WHERE NOT priced), count(*) FILTER (WHERE deployment IS NOT NULL AND energy_low_kwh IS NULL),
        sum(energy_low_kwh), sum(energy_high_kwh), sum(carbon_low_g), sum(carbon_high_g),
        count(cache), sum(saved_eur), sum(cached_tokens), sum(reasoning_tokens), coalesce(sum(saved_kwh), 0)
    FROM new GROUP BY 1, 2, 3, 4, 5
    ORDER BY 1, 2, 3, 4, 5   -- one order for all, so that two writers never wait for each other in a circle
    ON CONFLICT (hour, organisation, project, system, model) DO UPDATE SET
        calls = u.calls + EXCLUDED.calls,
        errors = u.errors + EXCLUDED.errors,
        input_tokens = u.input_tokens + EXCLUDED.input_tokens,
        output_tokens = u.output_tokens + EXCLUDED.output_tokens,
        cost_eur = u.cost_eur + EXCLUDED.cost_eur,
        unpriced = u.unpriced + EXCLUDED.unpriced,
        not_estimated = u.not_estimated + EXCLUDED.not_estimated,
        energy_low_kwh = coalesce(u.energy_low_kwh + EXCLUDED.energy_low_kwh, u.energy_low_kwh, EXCLUDED.energy_low_kwh),
        energy_high_kwh =
            coalesce(u.energy_high_kwh + EXCLUDED.energy_high_kwh, u.energy_high_kwh, EXCLUDED.energy_high_kwh),
        carbon_low_g = coalesce(u.carbon_low_g + EXCLUDED.carbon_low_g, u.carbon_low_g, EXCLUDED.carbon_low_g),
        carbon_high_g = coalesce(u.carbon_high_g + EXCLUDED.carbon_high_g, u.carbon_high_g, EXCLUDED.carbon_high_g),
        cache_hits = u.cache_hits + EXCLUDED.cache_hits,
        saved_eur = u.saved_eur + EXCLUDED.saved_eur,
        cached_tokens = u.cached_tokens + EXCLUDED.cached_tokens,
        reasoning_tokens = u.reasoning_tokens + EXCLUDED.reasoning_tokens,
        saved_kwh = u.saved_kwh + EXCLUDED.saved_kwh
), keys AS (
    INSERT INTO usage_keys AS u
    SELECT
        (at AT TIME ZONE 'UTC')::date AS day, organisation, project, key, count(*),
        count(*) FILTER (WHERE outcome <> 'answered'), sum(input_tokens), sum(output_tokens), sum(cost_eur),
        count(cache), sum(saved_eur)
    FROM new GROUP BY 1, 2, 3, 4
    ORDER BY 1, 2, 3, 4
    ON CONFLICT (day, organisation, project, key) DO UPDATE SET
        calls = u.calls + EXCLUDED.calls,
        errors = u.errors + EXCLUDED.errors,
        input_tokens = u.input_tokens + EXCLUDED.input_tokens,
        output_tokens = u.output_tokens + EXCLUDED.output_tokens,
        cost_eur = u.cost_eur + EXCLUDED.cost_eur,
        cache_hits = u.cache_hits + EXCLUDED.cache_hits,
        saved_eur = u.saved_eur + EXCLUDED.saved_eur
), latencies AS (
    INSERT INTO usage_latencies AS u
    SELECT
        date_trunc('hour', at, 'UTC') AS hour, organisation, project, system, model, measure,
        ceil(ln(greatest(seconds, 1e-4)) / ln(1.105))::smallint, count(*)
    FROM new, LATERAL (VALUES ('first', first_token_s), ('whole', duration_s)) AS m (measure, seconds)
    WHERE outcome = 'answered' AND seconds IS NOT NULL
    GROUP BY 1, 2, 3, 4, 5, 6, 7
    ORDER BY 1, 2, 3, 4, 5, 6, 7
    ON CONFLICT (hour, organisation, project, system, model, measure, bucket)
    DO UPDATE SET calls = u.calls + EXCLUDED.calls
)
SELECT lease, outcome, cost_eur, input_tokens + output_tokens AS tokens, energy_high_kwh * 1000 AS energy_wh,
    carbon_high_g AS carbon_g
FROM new WHERE lease IS NOT NULL;

-- usage --
-- Totals of the calls between two moments, counted one by one, grouped by the columns asked for, dearest first.
SELECT
    CASE WHEN 'organisation' = ANY(%(by)s::text[]) THEN organisation END AS organisation,
    CASE WHEN 'project' = ANY(%(by)s::text[]) THEN project END AS project,
    CASE WHEN 'system' = ANY(%(by)s::text[]) THEN system END AS system,
    CASE WHEN 'model' = ANY(%(by)s::text[]) THEN model END AS model,
    CASE WHEN 'day' = ANY(%(by)s::text[]) THEN (at AT TIME ZONE 'UTC')::date END AS day,
    count(*) AS calls,
    count(*) FILTER (WHERE outcome <> 'answered') AS errors,
    sum(input_tokens)::bigint AS input_tokens,
    sum(output_tokens)::bigint AS output_tokens,
    sum(cost_eur) AS cost_eur,
    count(*) FILTER (WHERE NOT priced) AS unpriced,
    count(*) FILTER (WHERE deployment IS NOT NULL AND energy_low_kwh IS NULL) AS not_estimated,
    sum(energy_low_kwh) * 1000 AS energy_low_wh,
    sum(energy_high_kwh) * 1000 AS energy_high_wh,
    sum(carbon_low_g) AS carbon_low_g,
    sum(carbon_high_g) AS carbon_high_g,
    count(cache) AS cache_hits,
    sum(saved_eur) AS saved_eur,
    sum(cached_tokens)::bigint AS cached_tokens,
    sum(reasoning_tokens)::bigint AS reasoning_tokens,
    coalesce(sum(saved_kwh), 0) AS saved_kwh
FROM calls
WHERE (%(since)s::timestamptz IS NULL OR at >= %(since)s)
  AND (%(until)s::timestamptz IS NULL OR at < %(until)s)
  AND (%(project)s::text IS NULL OR project = %(project)s)
GROUP BY 1, 2, 3, 4, 5
ORDER BY day DESC NULLS LAST, cost_eur DESC, calls DESC, organisation, project, system, model;

-- usage_by_hours --
-- The same totals out of the hours' totals, for moments that are whole hours.
SELECT
    CASE WHEN 'organisation' = ANY(%(by)s::text[]) THEN organisation END AS organisation,
    CASE WHEN 'project' = ANY(%(by)s::text[]) THEN project END AS project,
    CASE WHEN 'system' = ANY(%(by)s::text[]) THEN system END AS system,
    CASE WHEN 'model' = ANY(%(by)s::text[]) THEN model END AS model,
    CASE WHEN 'day' = ANY(%(by)s::text[]) THEN (hour AT TIME ZONE 'UTC')::date END AS day,
    sum(calls)::bigint AS calls,
    sum(errors)::bigint AS errors,
    sum(input_tokens)::bigint AS input_tokens,
    sum(output_tokens)::bigint AS output_tokens,
    sum(cost_eur) AS cost_eur,
    sum(unpriced)::bigint AS unpriced,
    sum(not_estimated)::bigint AS not_estimated,
    sum(energy_low_kwh) * 1000 AS energy_low_wh,
    sum(energy_high_kwh) * 1000 AS energy_high_wh,
    sum(carbon_low_g) AS carbon_low_g,
    sum(carbon_high_g) AS carbon_high_g,
    sum(cache_hits)::bigint AS cache_hits,
    sum(saved_eur) AS saved_eur,
    sum(cached_tokens)::bigint AS cached_tokens,
    sum(reasoning_tokens)::bigint AS reasoning_tokens,
    sum(saved_kwh) AS saved_kwh
FROM usage_hours
WHERE (%(since)s::timestamptz IS NULL OR hour >= %(since)s)
  AND (%(until)s::timestamptz IS NULL OR hour < %(until)s)
  AND (%(project)s::text IS NULL OR project = %(project)s)
GROUP BY 1, 2, 3, 4, 5
ORDER BY day DESC NULLS LAST, cost_eur DESC, calls DESC, organisation, project, system, model;

-- usage_by_keys --
-- Totals per key out of the days' totals, dearest first.
SELECT organisation, project, key, sum(calls)::bigint AS calls, sum(errors)::bigint AS errors,
    sum(input_tokens)::bigint AS input_tokens, sum(output_tokens)::bigint AS output_tokens,
    sum(cost_eur) AS cost_eur, sum(cache_hits)::bigint AS cache_hits, sum(saved_eur) AS saved_eur
FROM usage_keys
WHERE (%(since)s::date IS NULL OR day >= %(since)s)
  AND (%(until)s::date IS NULL OR day < %(until)s)
  AND (%(project)s::text IS NULL OR project = %(project)s)
GROUP BY 1, 2, 3 ORDER BY cost_eur DESC, calls DESC, key;

-- same_hours --
-- The totals of some hours, per hour, organisation, project, system and model, with the first hour each was seen in.
SELECT u.hour, u.organisation, u.project, u.system, u.model, u.calls, u.errors, u.input_tokens + u.output_tokens AS tokens,
    u.cost_eur
FROM usage_hours u WHERE u.hour = ANY(%(hours)s::timestamptz[]);

-- first_hours --
-- When each organisation, project, system and model was seen first, since a moment.
SELECT organisation, project, system, model, min(hour) AS hour FROM usage_hours WHERE hour >= %(since)s
GROUP BY 1, 2, 3, 4;

-- latencies --
-- How many answered calls fell into each bucket of time, per model, smallest first.
SELECT model, measure, bucket, sum(calls)::bigint AS calls FROM usage_latencies
WHERE (%(since)s::timestamptz IS NULL OR hour >= %(since)s)
  AND (%(until)s::timestamptz IS NULL OR hour < %(until)s)
  AND (%(project)s::text IS NULL OR project = %(project)s)
GROUP BY 1, 2, 3 ORDER BY 1, 2, 3;

-- calls_of_run --
-- The calls of one run of a workflow, in order.
SELECT id, at, model, deployment, outcome, error_code, error_cause, path, attempt, input_tokens, output_tokens,
       cost_eur, energy_low_kwh, energy_high_kwh, carbon_low_g, carbon_high_g, duration_s, masked
FROM calls WHERE run = %(run)s ORDER BY at, id;

-- calls_page --
-- Recorded calls, latest first, after the last one of the page before.
SELECT id, at, organisation, project, system, key, model, deployment, operation, outcome, error_code, error_cause,
    input_tokens, output_tokens, cached_tokens, reasoning_tokens, cost_eur, duration_s, first_token_s, tries, cache,
    end_user IS NOT NULL AS for_end_user, EXISTS (SELECT FROM contents WHERE contents.call = calls.id) AS contents
FROM calls
WHERE (%(project)s::text IS NULL OR project = %(project)s)
  AND (%(system)s::text IS NULL OR system = %(system)s)
  AND (%(key)s::text IS NULL OR key = %(key)s)
  AND (%(model)s::text IS NULL OR model = %(model)s)
  AND (%(outcome)s::text IS NULL OR outcome = %(outcome)s)
  AND (%(since)s::timestamptz IS NULL OR at >= %(since)s)
  AND (%(until)s::timestamptz IS NULL OR at < %(until)s)
  AND (%(end_user)s::text IS NULL OR end_user = %(end_user)s)
  AND (%(after)s::text IS NULL OR (at, id) < (SELECT at, id FROM calls WHERE id = %(after)s))
ORDER BY at DESC, id DESC LIMIT %(most)s;

-- call --
-- Everything recorded about one call but its contents.
SELECT calls.*, EXISTS (SELECT FROM contents WHERE contents.call = calls.id) AS contents
FROM calls WHERE id = %(id)s;

-- linked --
-- How many calls say that they served an end user.
SELECT count(*) AS calls FROM calls WHERE organisation = %(organisation)s AND end_user = %(end_user)s;

-- conversations_of --
-- The conversations that the calls for an end user belonged to, those of a project that named none, or that of a call.
SELECT DISTINCT project, conversation FROM calls
WHERE conversation IS NOT NULL AND organisation = %(organisation)s AND (
    id = %(call)s::text OR end_user = %(person)s::text OR (project = %(project)s::text AND end_user IS NULL));

-- unlink --
-- Makes some calls forget whom they served.
UPDATE calls SET end_user = NULL WHERE id IN (
    SELECT id FROM calls WHERE organisation = %(organisation)s AND end_user = %(end_user)s LIMIT %(most)s);

-- unlink_erased --
-- Makes calls that were recorded after the erasure of whom they served forget it too.
UPDATE calls SET end_user = NULL FROM erasures e
WHERE calls.id = ANY(%(ids)s::text[]) AND e.organisation = calls.organisation AND e.subject = calls.end_user
  AND e.part IS NULL AND e.at >= calls.at;

-- systems_called --
-- Every system of which calls are recorded.
WITH RECURSIVE found AS (
    (SELECT system FROM calls ORDER BY system LIMIT 1)
    UNION ALL
    SELECT (SELECT c.system FROM calls c WHERE c.system > found.system ORDER BY c.system LIMIT 1)
    FROM found WHERE found.system IS NOT NULL
)
SELECT system FROM found WHERE system IS NOT NULL;

-- expired_calls --
-- How many calls of a system are older than a moment and under no hold.
SELECT count(*) AS records FROM calls c
WHERE c.system = %(system)s AND c.at < %(before)s AND NOT EXISTS (
    SELECT FROM legal_holds h WHERE h.released_at IS NULL AND (
        (h.scope = 'system' AND h.target = c.system) OR (h.scope = 'project' AND h.target = c.project)
        OR (h.scope = 'subject' AND h.target IN (c.end_user, c.project)) OR (h.scope = 'call' AND h.target = c.id)));

-- expire_calls --
-- Deletes some calls of a system that are older than a moment and under no hold; the totals of their hours stay.
DELETE FROM calls WHERE id IN (
    SELECT c.id FROM calls c
    WHERE c.system = %(system)s AND c.at < %(before)s AND NOT EXISTS (
        SELECT FROM legal_holds h WHERE h.released_at IS NULL AND (
            (h.scope = 'system' AND h.target = c.system) OR (h.scope = 'project' AND h.target = c.project)
            OR (h.scope = 'subject' AND h.target IN (c.end_user, c.project)) OR (h.scope = 'call' AND h.target = c.id)))
    LIMIT %(most)s)
RETURNING lease, outcome, cost_eur, input_tokens + output_tokens AS tokens, energy_high_kwh * 1000 AS energy_wh,
    carbon_high_g AS carbon_g;
