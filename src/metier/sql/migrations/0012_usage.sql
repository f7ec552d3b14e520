-- What the ledger learnt to note since it began.
ALTER TABLE calls
    ADD COLUMN organisation       text NOT NULL DEFAULT 'main',
    ADD COLUMN end_user           text,                        -- keyed digest of whom the client served; null: not said
    ADD COLUMN cache              text CHECK (cache IN (
        'exact',      -- answered from the cache: the very same question
        'semantic'    -- answered from the cache: a question of the same meaning
    )),
    ADD COLUMN saved_eur          numeric(18, 9) NOT NULL DEFAULT 0,   -- what the cached answer had cost
    ADD COLUMN saved_kwh          double precision,
    ADD COLUMN tries              smallint NOT NULL DEFAULT 1,         -- deployments asked, the last one included
    ADD COLUMN cache_write_tokens bigint NOT NULL DEFAULT 0,
    ADD COLUMN reasoning_tokens   bigint NOT NULL DEFAULT 0,
    ADD COLUMN shadow_of          text;                        -- the call this one was a silent copy of

-- Totals per hour, written in the transaction of the calls they count; they outlive those calls.
CREATE TABLE usage_hours (
    hour            timestamptz NOT NULL,
    organisation    text NOT NULL,
    project         text NOT NULL,
    system          text NOT NULL,
    model           text NOT NULL,
    calls           bigint NOT NULL,
    errors          bigint NOT NULL,          -- refused, failed, cancelled or lost
    input_tokens    bigint NOT NULL,
    output_tokens   bigint NOT NULL,
    cost_eur        numeric(18, 9) NOT NULL,
    unpriced        bigint NOT NULL,          -- calls whose price is unknown
    not_estimated   bigint NOT NULL,          -- calls whose footprint is unknown
    energy_low_kwh  double precision,         -- null: no call of the hour could be estimated
    energy_high_kwh double precision,
    carbon_low_g    double precision,
    carbon_high_g   double precision,
    cache_hits      bigint NOT NULL,
    saved_eur       numeric(18, 9) NOT NULL,
    PRIMARY KEY (hour, organisation, project, system, model)
);

-- How long answered calls took: counts in buckets whose bounds grow by 10.5 %, so that a quantile is
-- known within 5 % (DDSketch, Masson, Rim and Lee, 2019). Bucket b holds ]1.105^(b-1), 1.105^b] seconds.
CREATE TABLE usage_latencies (
    hour            timestamptz NOT NULL,
    organisation    text NOT NULL,
    project         text NOT NULL,
    system          text NOT NULL,
    model           text NOT NULL,
    measure         text NOT NULL CHECK (measure IN (
        'first',      -- until the first piece
        'whole'       -- until the end
    )),
    bucket          smallint NOT NULL,
    calls           bigint NOT NULL,
    PRIMARY KEY (hour, organisation, project, system, model, measure, bucket)
);

INSERT INTO usage_hours
SELECT
    date_trunc('hour', at, 'UTC'), organisation, project, system, model, count(*),
    count(*) FILTER (WHERE outcome <> 'answered'), sum(input_tokens), sum(output_tokens), sum(cost_eur),
    count(*) FILTER (WHERE NOT priced), count(*) FILTER (WHERE deployment IS NOT NULL AND energy_low_kwh IS NULL),
    sum(energy_low_kwh), sum(energy_high_kwh), sum(carbon_low_g), sum(carbon_high_g), 0, 0
FROM calls GROUP BY 1, 2, 3, 4, 5;

INSERT INTO usage_latencies
SELECT
    date_trunc('hour', at, 'UTC'), organisation, project, system, model, measure,
    ceil(ln(greatest(seconds, 1e-4)) / ln(1.105))::smallint, count(*)
FROM calls, LATERAL (VALUES ('first', first_token_s), ('whole', duration_s)) AS m (measure, seconds)
WHERE outcome = 'answered' AND seconds IS NOT NULL
GROUP BY 1, 2, 3, 4, 5, 6, 7;
