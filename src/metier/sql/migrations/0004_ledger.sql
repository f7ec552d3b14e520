-- One row per call, however it ended. No contents, ever: identifiers, counts, money and footprint.
CREATE TABLE calls (
    id              text PRIMARY KEY,
    at              timestamptz NOT NULL,     -- when it began
    key             text NOT NULL,
    project         text NOT NULL,
    system          text NOT NULL,
    model           text NOT NULL,            -- the public name asked for
    deployment      text,                     -- null: none was chosen
    operation       text NOT NULL,
    outcome         text NOT NULL CHECK (outcome IN (
        'answered',   -- the whole answer was produced
        'refused',    -- a rule or a mistake in the request stopped it; error_code says which
        'failed',     -- a provider or Métier broke
        'cancelled',  -- the caller left before the end
        'lost'        -- the worker died; charged what was reserved, set by its successor
    )),
    error_code      text,
    input_tokens    bigint NOT NULL DEFAULT 0,
    output_tokens   bigint NOT NULL DEFAULT 0,
    cached_tokens   bigint NOT NULL DEFAULT 0,
    estimated       boolean NOT NULL DEFAULT false,  -- the counts are ours, no provider figure came
    cost_eur        numeric(18, 9) NOT NULL DEFAULT 0,
    priced          boolean NOT NULL DEFAULT true,   -- false: the price is unknown and the cost counts as 0
    reserved_eur    numeric(18, 9) NOT NULL DEFAULT 0,
    lease           text,
    energy_low_kwh  double precision,         -- null: not estimated
    energy_high_kwh double precision,
    carbon_low_g    double precision,
    carbon_high_g   double precision,
    method          text NOT NULL,
    zone            text,
    duration_s      double precision NOT NULL,
    first_token_s   double precision,
    masked          jsonb NOT NULL DEFAULT '{}',  -- personal values masked, counted per type
    run             text,
    path            text,
    attempt         integer,
    conversation    text
);
CREATE INDEX calls_by_time ON calls (at);
CREATE INDEX calls_by_project ON calls (project, at);
CREATE INDEX calls_by_system ON calls (system, at);
CREATE INDEX calls_by_run ON calls (run, at) WHERE run IS NOT NULL;
