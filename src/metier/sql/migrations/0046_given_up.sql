-- What was in doubt, never left and is not to leave any more.
ALTER TABLE outbox
    DROP CONSTRAINT outbox_state_check,
    ADD CONSTRAINT outbox_state_check CHECK (state IN (
        'prepared',                  -- written down, nothing transmitted; the sender moves it on
        'sending',                   -- its content may be on the wire; only the sender leaves this state
        'sent',                      -- the server took it; final
        'unsure',                    -- the sender died while it was on the wire; a person decides
        'dropped')),                 -- a person found that it never left, and wants it to stay so; final
    DROP CONSTRAINT outbox_settled_as_check,
    ADD CONSTRAINT outbox_settled_as_check CHECK (settled_as IN (
        'delivered',                 -- a person found it among the messages that left: it became 'sent'
        'again',                     -- a person found that it never left: it became 'prepared' again
        'dropped'));                 -- a person found that it never left: it became 'dropped'
