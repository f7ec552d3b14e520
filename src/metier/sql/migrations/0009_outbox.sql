-- Messages that leave the house. One row per effect key, so one approval sends one message.
CREATE TABLE outbox (
    key         text PRIMARY KEY,               -- run and path of the step that sends
    message_id  text NOT NULL UNIQUE,           -- Message-ID of the e-mail, made from the key
    state       text NOT NULL DEFAULT 'prepared'
                CHECK (state IN (
                    'prepared',                 -- written down, nothing transmitted; the sender moves it on
                    'sending',                  -- its content may be on the wire; only the sender leaves this state
                    'sent',                     -- the server took it; final
                    'unsure')),                 -- the sender died while it was on the wire; a person decides
    content     bytea NOT NULL,                 -- the message, sealed
    error       text,                           -- last answer of the server, when it refused
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now()
);
