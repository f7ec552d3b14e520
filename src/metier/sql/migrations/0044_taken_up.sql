-- Runs below a run that is resumed go on where they failed.
ALTER TABLE runs
    ADD COLUMN told_eur numeric(18, 9) NOT NULL DEFAULT 0,   -- what of its cost its parent has counted already
    ADD COLUMN left_behind boolean NOT NULL DEFAULT false;   -- cancelled because the run it belongs to was over
