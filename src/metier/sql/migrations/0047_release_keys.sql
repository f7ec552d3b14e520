-- What keeps the runs of a canary on one side; null until a version is first given to a share.
ALTER TABLE releases
    ADD COLUMN per text CHECK (per <> '');                   -- 'event', 'person', or CEL over the inputs

-- Those under way go on as they were: a share that grows moves nobody back.
UPDATE releases SET per = 'event' WHERE state = 'canary';
