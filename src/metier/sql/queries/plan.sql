-- seen_runs --
-- Counts the latest runs of a flow that are over, of one definition or of every one, with what they took.
SELECT count(*) AS runs
  FROM (SELECT id FROM runs
         WHERE workflow = %(workflow)s AND (%(project)s::text IS NULL OR project = %(project)s)
           AND (%(definition)s::text IS NULL OR definition = %(definition)s) AND status IN ('done', 'failed')
         ORDER BY id DESC LIMIT %(limit)s) latest;

-- seen_steps --
-- Gives by step what those runs, and their items that are runs, took in tries, money and time, and what the calls of the
-- step took in tokens and energy.
WITH RECURSIVE latest AS MATERIALIZED (
    SELECT id FROM runs
     WHERE workflow = %(workflow)s AND (%(project)s::text IS NULL OR project = %(project)s)
       AND (%(definition)s::text IS NULL OR definition = %(definition)s) AND status IN ('done', 'failed')
     ORDER BY id DESC LIMIT %(limit)s
), family AS (
    SELECT id FROM latest
    UNION ALL
    SELECT runs.id FROM runs JOIN family ON runs.parent = family.id
     WHERE runs.item IS NOT NULL AND runs.parent_path NOT LIKE '%% ~%%'
), tried AS (
    SELECT regexp_replace(j.path, '^.*\.', '') AS step, count(*) FILTER (WHERE j.kind IN ('result', 'error')) AS tries,
           count(*) FILTER (WHERE j.kind = 'decision') AS tasks, sum(j.cost_eur) AS cost_eur, sum(j.calls) AS calls,
           sum(j.duration_s) AS seconds
      FROM family JOIN journal j ON j.run = family.id
     WHERE j.name = '' AND j.kind IN ('result', 'error', 'decision')
     GROUP BY 1
), called AS (
    SELECT regexp_replace(c.path, '^.*\.', '') AS step, count(*) AS calls, sum(c.input_tokens) AS input_tokens,
           sum(c.output_tokens) AS output_tokens, sum(c.cost_eur) AS cost_eur,
           sum((c.energy_low_kwh + c.energy_high_kwh) / 2) * 1000 AS wh,
           sum((c.carbon_low_g + c.carbon_high_g) / 2) AS carbon_g,
           count(*) FILTER (WHERE c.energy_low_kwh IS NULL) AS not_estimated, count(*) FILTER (WHERE NOT c.priced) AS unpriced
      FROM family JOIN calls c ON c.run = family.id
     WHERE c.path IS NOT NULL
     GROUP BY 1
)
SELECT tried.step, tried.tries, tried.tasks, tried.seconds,
       coalesce(called.calls, tried.calls) AS calls, coalesce(called.input_tokens, 0) AS input_tokens,
       coalesce(called.output_tokens, 0) AS output_tokens, coalesce(called.cost_eur, tried.cost_eur) AS cost_eur,
       coalesce(called.wh, 0) AS wh, coalesce(called.carbon_g, 0) AS carbon_g,
       coalesce(called.not_estimated, 0) AS not_estimated, coalesce(called.unpriced, 0) AS unpriced
  FROM tried LEFT JOIN called ON called.step = tried.step;
