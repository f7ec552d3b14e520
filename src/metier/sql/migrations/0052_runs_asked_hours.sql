-- What a run was asked to begin in, whatever those of its flow were then: a fork of it is asked for the same.
ALTER TABLE runs ADD COLUMN asked_hours text;    -- null: nothing was asked, those of its flow hold
