-- Steps may also wait for runs of other workflows that they asked something, as agents do.
ALTER TABLE waits
    DROP CONSTRAINT waits_kind_check,
    ADD CONSTRAINT waits_kind_check CHECK (kind IN (
        'task',       -- made when its task is opened, gone with the decision
        'event',      -- made when the step begins to wait, gone with the event or when its time is over
        'run'         -- made with the run that is asked, gone with its end
    ));
