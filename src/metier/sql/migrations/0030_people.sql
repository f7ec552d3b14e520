-- People around tasks: everything that happens to one, who stands in for whom, second readings, levels of escalation.

ALTER TABLE tasks
    ADD COLUMN reading integer NOT NULL DEFAULT 1,        -- 2: a blind second reading; 3: a third person, as two disagreed
    ADD COLUMN readings integer NOT NULL DEFAULT 1,       -- how many the question gets: 2 where it is read twice
    ADD COLUMN readers text[] NOT NULL DEFAULT '{}',      -- names and ids of those who read it before
    ADD COLUMN agreed boolean,                            -- of a second reading: whether it came to the same decision
    ADD COLUMN escalate_at timestamptz,                   -- when it climbs next
    ADD COLUMN escalations jsonb NOT NULL DEFAULT '[]',   -- [{"at": …, "to": "group:…"}], the next one first
    DROP CONSTRAINT tasks_run_path_attempt_name_key,
    ADD UNIQUE (run, path, attempt, name, reading);

CREATE INDEX tasks_escalations ON tasks (escalate_at) WHERE state IN ('open', 'claimed') AND escalate_at IS NOT NULL;

CREATE TYPE task_event AS ENUM (
    'opened', 'claimed', 'released', 'commented', 'handed_off', 'reminded', 'reassigned', 'escalated', 'changed',
    'decided', 'expired', 'cancelled', 'agreed', 'disagreed');

CREATE TABLE task_events (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    task text NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    kind task_event NOT NULL,
    at timestamptz NOT NULL,
    by_name text,                                         -- null: the platform, by a date or with the run
    by_id text,
    target text,                                          -- who it is for from then on: "group:<name>" or "user:<name>"
    words bytea                                           -- sealed: a comment, the note of a hand-off or of a decision
);

CREATE INDEX task_events_by_task ON task_events (task, id);

CREATE FUNCTION task_events_kept() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- Deeper than one: the task goes, and what happened to it with it.
    IF TG_OP = 'UPDATE' OR pg_trigger_depth() < 2 THEN
        RAISE EXCEPTION 'task_events is append-only';
    END IF;
    RETURN OLD;
END $$;

CREATE TRIGGER task_events_kept BEFORE UPDATE OR DELETE ON task_events
    FOR EACH ROW EXECUTE FUNCTION task_events_kept();

CREATE TABLE absences (
    id text PRIMARY KEY,
    organisation text NOT NULL,
    person text NOT NULL,                                 -- name, as in "user:<name>"
    substitute text NOT NULL,                             -- "user:<name>" or "group:<name>"
    from_at timestamptz NOT NULL,
    until_at timestamptz NOT NULL,
    declared_by text NOT NULL,
    declared_id text,
    declared_at timestamptz NOT NULL,
    ended_at timestamptz,                                 -- came back earlier, or it was a mistake
    CHECK (from_at < until_at)
);

CREATE INDEX absences_by_person ON absences (organisation, person, until_at);
CREATE INDEX absences_by_substitute ON absences (substitute, until_at);
