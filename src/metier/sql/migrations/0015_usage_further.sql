-- What the totals of the hours learnt to count since they began.
ALTER TABLE usage_hours
    ADD COLUMN cached_tokens    bigint NOT NULL DEFAULT 0,
    ADD COLUMN reasoning_tokens bigint NOT NULL DEFAULT 0,
    ADD COLUMN saved_kwh        double precision NOT NULL DEFAULT 0;
UPDATE usage_hours AS u
SET cached_tokens = c.cached, reasoning_tokens = c.reasoning, saved_kwh = c.saved
FROM (
    SELECT date_trunc('hour', at, 'UTC') AS hour, organisation, project, system, model,
        sum(cached_tokens) AS cached, sum(reasoning_tokens) AS reasoning, coalesce(sum(saved_kwh), 0) AS saved
    FROM calls GROUP BY 1, 2, 3, 4, 5) AS c
WHERE (u.hour, u.organisation, u.project, u.system, u.model) = (c.hour, c.organisation, c.project, c.system, c.model);

-- Totals per key and day (UTC), written in the transaction of the calls they count; they outlive those calls.
CREATE TABLE usage_keys (
    day              date NOT NULL,
    organisation     text NOT NULL,
    project          text NOT NULL,
    key              text NOT NULL,
    calls            bigint NOT NULL,
    errors           bigint NOT NULL,
    input_tokens     bigint NOT NULL,
    output_tokens    bigint NOT NULL,
    cost_eur         numeric(18, 9) NOT NULL,
    cache_hits       bigint NOT NULL,
    saved_eur        numeric(18, 9) NOT NULL,
    PRIMARY KEY (day, organisation, project, key)
);
INSERT INTO usage_keys
SELECT (at AT TIME ZONE 'UTC')::date, organisation, project, key, count(*), count(*) FILTER (WHERE outcome <> 'answered'),
    sum(input_tokens), sum(output_tokens), sum(cost_eur), count(cache), sum(saved_eur)
FROM calls GROUP BY 1, 2, 3, 4;
