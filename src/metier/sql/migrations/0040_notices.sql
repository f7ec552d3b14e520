-- Notices of tasks: every event people may have to hear of waits here from its own transaction on, first for nobody ('').
ALTER TABLE task_notices
    ADD COLUMN letter text,                               -- key of the e-mail in the outbox, from when it is planned
    ADD COLUMN digest boolean NOT NULL DEFAULT false,     -- the letter tells several events at once
    ADD COLUMN planned_at timestamptz,
    ADD COLUMN next_at timestamptz,                       -- not tried again before
    ADD COLUMN error text;                                -- why nothing leaves any more: over, gone, or what the server said
COMMENT ON COLUMN task_notices.recipient IS 'name of the person, never the address; empty while nobody has looked who hears of it';

CREATE INDEX task_notices_open ON task_notices (recipient, event) WHERE sent_at IS NULL AND error IS NULL;
CREATE INDEX task_notices_by_letter ON task_notices (letter) WHERE letter IS NOT NULL;
CREATE INDEX task_notices_lately ON task_notices (recipient, planned_at) WHERE planned_at IS NOT NULL;

CREATE FUNCTION task_events_noticed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO task_notices (event, recipient) VALUES (NEW.id, '');
    RETURN NULL;
END $$;

CREATE TRIGGER task_events_noticed AFTER INSERT ON task_events FOR EACH ROW
    WHEN (NEW.kind IN ('opened', 'commented', 'handed_off', 'reminded', 'reassigned', 'escalated'))
    EXECUTE FUNCTION task_events_noticed();
