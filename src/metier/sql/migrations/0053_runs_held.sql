-- Runs in which somebody is whom a legal hold keeps, and those that had started these, with the hold.
CREATE VIEW runs_held AS
WITH RECURSIVE held AS (
    SELECT runs.id, runs.parent, legal_holds.id AS hold
      FROM legal_holds JOIN run_people ON person = target JOIN runs ON runs.id = run_people.run
     WHERE released_at IS NULL AND scope = 'subject'
    UNION
    SELECT runs.id, runs.parent, held.hold FROM held JOIN runs ON runs.id = held.parent
)
SELECT id, hold FROM held;
