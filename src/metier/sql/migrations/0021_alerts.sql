-- What people are told about a limit, once per period and kind, written with the spending that caused it.
CREATE TABLE alerts (
    id          text PRIMARY KEY,
    limit_id    text NOT NULL,
    starts_on   date NOT NULL,                  -- the period
    kind        text NOT NULL CHECK (kind IN ('50', '80', '100', 'forecast')),
    spent       numeric(24, 9) NOT NULL,
    forecast    numeric(24, 9),                 -- for 'forecast': where the period would end
    told        jsonb NOT NULL,                 -- the limit as it was: scope, subject, measure, period, amount, action
    at          timestamptz NOT NULL DEFAULT now(),
    addressed   boolean NOT NULL DEFAULT false, -- true once its deliveries are written down
    UNIQUE (limit_id, starts_on, kind)
);
CREATE INDEX alerts_new ON alerts (at) WHERE NOT addressed;

-- One row per alert and address. A delivery is tried until it is taken, or for two days.
CREATE TABLE deliveries (
    alert       text NOT NULL REFERENCES alerts (id) ON DELETE CASCADE,
    channel     text NOT NULL CHECK (channel IN ('webhook', 'email')),
    target      text NOT NULL,                  -- address as metier.yaml has it
    state       text NOT NULL DEFAULT 'waiting' CHECK (state IN (
        'waiting',    -- to be tried at due_at; a worker that tries it moves due_at first
        'sent',       -- taken; final
        'failed'      -- refused for good, or tried too often; final
    )),
    attempts    integer NOT NULL DEFAULT 0,
    due_at      timestamptz NOT NULL DEFAULT now(),
    error       text,
    PRIMARY KEY (alert, channel, target)
);
CREATE INDEX deliveries_due ON deliveries (due_at) WHERE state = 'waiting';

-- What happened that people should see, newest last; the console shows it.
CREATE TABLE feed (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at            timestamptz NOT NULL DEFAULT now(),
    organisation  text NOT NULL,
    kind          text NOT NULL,
    body          jsonb NOT NULL
);
CREATE INDEX feed_by_organisation ON feed (organisation, id);
