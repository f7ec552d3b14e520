-- Who decided, beyond a name that two people may share, and why; and what people found out about doubtful e-mails.

ALTER TABLE tasks
    ADD COLUMN claimed_id text,      -- public part of the key of who claimed it, or "local…" on the command line
    ADD COLUMN decided_id text,      -- the same of who decided; null for decisions by date and those of earlier versions
    ADD COLUMN note bytea;           -- sealed: why, in the words of who decided

ALTER TABLE outbox
    ADD COLUMN settled_as text CHECK (settled_as IN (
        'delivered',                 -- a person found it among the messages that left: it became 'sent'
        'again')),                   -- a person found that it never left: it became 'prepared' again
    ADD COLUMN settled_by text,      -- name and id of that person
    ADD COLUMN settled_at timestamptz;

CREATE INDEX outbox_doubtful ON outbox (updated_at) WHERE state IN ('sending', 'unsure');
