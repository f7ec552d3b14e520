-- insert_calls --
-- Records a batch of calls and their hour's totals, each once by its id; says which were new and what they cost.
WITH new AS (
    INSERT INTO calls (
        id, at, key, organisation, project, system, end_user, model, deployment, operation, outcome, error_code,
        input_tokens, output_tokens, cached_tokens, cache_write_tokens, reasoning_tokens, estimated,
        cost_eur, priced, reserved_eur, lease, cache, saved_eur, saved_kwh, tries, shadow_of,
        energy_low_kwh, energy_high_kwh, carbon_low_g, carbon_high_g, method, zone,
        duration_s, first_token_s, masked, run, path, attempt, conversation)
    SELECT
        id, to_timestamp(at), key, organisation, project, system, end_user, model, deployment, operation, outcome,
        error_code, input_tokens, output_tokens, cached_tokens, coalesce(cache_write_tokens, 0),
        coalesce(reasoning_tokens, 0), estimated,
        cost_eur, priced, reserved_eur, nullif(lease, ''), cache, coalesce(saved_eur, 0), saved_kwh,
        coalesce(tries, 1), shadow_of,
        energy_low_kwh, energy_high_kwh, carbon_low_g, carbon_high_g, method, zone,
        duration_s, first_token_s, masked, run, path, attempt, conversation
    FROM jsonb_to_recordset(%(rows)s::text::jsonb) AS r (
        id text, at double precision, key text, organisation text, project text, system text, end_user text,
        model text, deployment text, operation text, outcome text, error_code text,
        input_tokens bigint, output_tokens bigint, cached_tokens bigint, cache_write_tokens bigint,
        reasoning_tokens bigint, estimated boolean,
        cost_eur numeric, priced boolean, reserved_eur numeric, lease text,
        cache text, saved_eur numeric, saved_kwh double precision, tries smallint, shadow_of text,
        energy_low_kwh double precision, energy_high_kwh double precision,
        carbon_low_g double precision, carbon_high_g double precision, method text, zone text,
        duration_s double precision, first_token_s double precision, masked jsonb,
        run text, path text, attempt integer, conversation text)
    ON CONFLICT (id) DO NOTHING
    RETURNING *
), totals AS (
    INSERT INTO usage_hours AS u
    SELECT
        date_trunc('hour', at, 'UTC') AS hour, organisation, project, system, model, count(*),
        count(*) FILTER (WHERE outcome <> 'answered'), sum(input_tokens), sum(output_tokens), sum(cost_eur),
        count(*) FILTER (WHERE NOT priced), count(*) FILTER (WHERE deployment IS NOT NULL AND energy_low_kwh IS NULL),
        sum(energy_low_kwh), sum(energy_high_kwh), sum(carbon_low_g), sum(carbon_high_g),
        count(cache), sum(saved_eur)
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
    sum(saved_eur) AS saved_eur
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
    sum(saved_eur) AS saved_eur
FROM usage_hours
WHERE (%(since)s::timestamptz IS NULL OR hour >= %(since)s)
  AND (%(until)s::timestamptz IS NULL OR hour < %(until)s)
  AND (%(project)s::text IS NULL OR project = %(project)s)
GROUP BY 1, 2, 3, 4, 5
ORDER BY day DESC NULLS LAST, cost_eur DESC, calls DESC, organisation, project, system, model;

-- latencies --
-- How many answered calls fell into each bucket of time, per model, smallest first.
SELECT model, measure, bucket, sum(calls)::bigint AS calls FROM usage_latencies
WHERE (%(since)s::timestamptz IS NULL OR hour >= %(since)s)
  AND (%(until)s::timestamptz IS NULL OR hour < %(until)s)
  AND (%(project)s::text IS NULL OR project = %(project)s)
GROUP BY 1, 2, 3 ORDER BY 1, 2, 3;

-- calls_of_run --
-- The calls of one run of a workflow, in order.
SELECT id, at, model, deployment, outcome, error_code, path, attempt, input_tokens, output_tokens,
       cost_eur, energy_low_kwh, energy_high_kwh, carbon_low_g, carbon_high_g, duration_s, masked
FROM calls WHERE run = %(run)s ORDER BY at, id;
