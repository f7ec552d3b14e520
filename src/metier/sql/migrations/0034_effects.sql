-- The outbox keeps every side effect, not e-mails alone: requests that write, statements, drafts, webhooks.
ALTER TABLE outbox
    ADD COLUMN tool text NOT NULL DEFAULT 'email.send',  -- which tool does it
    ADD COLUMN target text NOT NULL DEFAULT '',          -- where it goes, without contents: a host, a mailbox
    ADD COLUMN mark text,                                -- what the other side called it at the last moment, such as a transaction
    ADD COLUMN result bytea;                             -- sealed: what the other side answered; a repeated step gets it again
COMMENT ON COLUMN outbox.message_id IS 'Message-ID of an e-mail, idempotency key of everything else; made from the key';
