-- insert_calls --
-- Records a batch of calls, each once by its id, and says which were new with what they cost.
INSERT INTO calls (
    id, at, key, project, system, model, deployment, operation, outcome, error_code,
    input_tokens, output_tokens, cached_tokens, estimated, cost_eur, priced, reserved_eur, lease,
    energy_low_kwh, energy_high_kwh, carbon_low_g, carbon_high_g, method, zone,
    duration_s, first_token_s, masked, run, path, attempt, conversation)
SELECT
    id, to_timestamp(at), key, project, system, model, deployment, operation, outcome, error_code,
    input_tokens, output_tokens, cached_tokens, estimated, cost_eur, priced, reserved_eur, lease,
    energy_low_kwh, energy_high_kwh, carbon_low_g, carbon_high_g, method, zone,
    duration_s, first_token_s, masked, run, path, attempt, conversation
FROM jsonb_to_recordset(%(rows)s::text::jsonb) AS r (
    id text, at double precision, key text, project text, system text, model text, deployment text,
    operation text, outcome text, error_code text,
    input_tokens bigint, output_tokens bigint, cached_tokens bigint, estimated boolean,
    cost_eur numeric, priced boolean, reserved_eur numeric, lease text,
    energy_low_kwh double precision, energy_high_kwh double precision,
    carbon_low_g double precision, carbon_high_g double precision, method text, zone text,
    duration_s double precision, first_token_s double precision, masked jsonb,
    run text, path text, attempt integer, conversation text)
ON CONFLICT (id) DO NOTHING
RETURNING lease, project, cost_eur;

-- usage --
-- Totals of the calls between two moments, grouped by the columns asked for, dearest first.
SELECT
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
    sum(carbon_high_g) AS carbon_high_g
FROM calls
WHERE (%(since)s::timestamptz IS NULL OR at >= %(since)s)
  AND (%(until)s::timestamptz IS NULL OR at < %(until)s)
  AND (%(project)s::text IS NULL OR project = %(project)s)
GROUP BY 1, 2, 3, 4
ORDER BY day DESC NULLS LAST, cost_eur DESC, calls DESC, project, system, model;

-- calls_of_run --
-- The calls of one run of a workflow, in order.
SELECT id, at, model, deployment, outcome, error_code, path, attempt, input_tokens, output_tokens,
       cost_eur, energy_low_kwh, energy_high_kwh, carbon_low_g, carbon_high_g, duration_s, masked
FROM calls WHERE run = %(run)s ORDER BY at, id;
