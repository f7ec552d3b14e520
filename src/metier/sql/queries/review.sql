-- open --
-- Opens a task in the transaction that parks its run, and tells those who watch.
WITH made AS (
INSERT INTO tasks (id, run, workflow, project, path, attempt, name, title, assignee, payload, due_at, remind_at,
                   reminders, on_timeout, opened_at, reading, readings, readers, escalate_at, escalations)
VALUES (%(id)s, %(run)s, %(workflow)s, %(project)s, %(path)s, %(attempt)s, %(name)s, %(title)s, %(assignee)s,
        %(payload)s, %(due_at)s, %(remind_at)s, %(reminders)s::timestamptz[], %(on_timeout)s::jsonb, %(opened_at)s,
        %(reading)s, %(readings)s, %(readers)s::text[], %(escalate_at)s, %(escalations)s::jsonb)
RETURNING id, assignee, opened_at),
told AS (INSERT INTO task_events (task, kind, at, target) SELECT id, 'opened', opened_at, assignee FROM made)
SELECT pg_notify('metier_tasks', json_build_object('task', id, 'what', 'opened')::text) IS NULL AS told FROM made

-- close --
-- Cancels the tasks of a run that is over.
WITH gone AS (
UPDATE tasks SET state = 'cancelled', decided_at = %(now)s WHERE run = %(run)s AND state IN ('open', 'claimed')
RETURNING id)
INSERT INTO task_events (task, kind, at) SELECT id, 'cancelled', %(now)s FROM gone

-- set_aside --
-- Takes the tasks of a run at all but some paths out of the way of those asked again; who decided them stays.
WITH moved AS (
UPDATE tasks SET state = CASE WHEN state IN ('open', 'claimed') THEN 'cancelled'::task_state ELSE state END,
                 decided_at = coalesce(decided_at, %(now)s), path = path || %(mark)s
 WHERE run = %(run)s AND NOT (path = ANY(%(kept)s::text[])) AND position('~' IN path) = 0
RETURNING id, decided_at)
INSERT INTO task_events (task, kind, at) SELECT id, 'cancelled', %(now)s FROM moved WHERE decided_at = %(now)s

-- get --
-- Gives one task, sealed parts included, with who started its run; nothing where it belongs to another organisation.
SELECT tasks.*, runs.key_id AS starter_id, keys.name AS starter, askers_of(tasks.run) AS askers,
       EXISTS (SELECT FROM tasks AS later
                WHERE later.run = tasks.run AND later.path = tasks.path AND later.attempt = tasks.attempt
                  AND later.name = tasks.name AND later.reading = 2 AND tasks.reading = 1
                  AND later.state IN ('open', 'claimed')) AS blind
  FROM tasks JOIN runs ON runs.id = tasks.run LEFT JOIN keys ON keys.id = runs.key_id
 WHERE tasks.id = %(id)s
   AND (%(organisation)s::text IS NULL OR %(organisation)s = coalesce(
        (SELECT organisation FROM projects WHERE projects.id = tasks.project), 'main'))

-- page --
-- Gives the tasks that wait for one of these groups or people, oldest first, those after a given one.
SELECT tasks.*, runs.key_id AS starter_id, keys.name AS starter
  FROM tasks JOIN runs ON runs.id = tasks.run LEFT JOIN keys ON keys.id = runs.key_id
 WHERE tasks.state IN ('open', 'claimed')
   AND (%(assignees)s::text[] IS NULL OR assignee = ANY(%(assignees)s))
   AND (%(who)s::text[] IS NULL OR NOT readers && %(who)s)
   AND (%(organisation)s::text IS NULL OR %(organisation)s = coalesce(
        (SELECT organisation FROM projects WHERE projects.id = tasks.project), 'main'))
   AND (%(run)s::text IS NULL OR run = %(run)s)
   AND (%(after)s::text IS NULL OR tasks.id > %(after)s)
 ORDER BY tasks.id
 LIMIT %(limit)s

-- of_run --
-- Gives every task a run has opened, those that are over too.
SELECT tasks.*, runs.key_id AS starter_id, keys.name AS starter
  FROM tasks JOIN runs ON runs.id = tasks.run LEFT JOIN keys ON keys.id = runs.key_id
 WHERE run = %(run)s ORDER BY tasks.id

-- tell --
-- Adds something that happened to a task to what happened before.
INSERT INTO task_events (task, kind, at, by_name, by_id, target, words)
VALUES (%(task)s, %(kind)s, %(at)s, %(by)s, %(by_id)s, %(target)s, %(words)s)

-- history --
-- Gives everything that happened to a task, in order.
SELECT * FROM task_events WHERE task = %(task)s ORDER BY id

-- first --
-- Gives the first reading of the question that a further reading belongs to, and the one before it.
SELECT tasks.*, runs.key_id AS starter_id, keys.name AS starter
  FROM tasks JOIN runs ON runs.id = tasks.run LEFT JOIN keys ON keys.id = runs.key_id
 WHERE tasks.run = %(run)s AND tasks.path = %(path)s AND tasks.attempt = %(attempt)s AND tasks.name = %(name)s
   AND tasks.reading < %(reading)s
 ORDER BY tasks.reading

-- hold_run --
-- Keeps a parked run from ending while a further reading is opened; gives nothing where it waits no more.
SELECT id FROM runs WHERE id = %(run)s AND status = 'parked' FOR SHARE

-- agree --
-- Notes whether a second reading came to the same decision.
UPDATE tasks SET agreed = %(agreed)s WHERE id = %(id)s

-- agreement --
-- Counts, by workflow and step, how many questions were read twice and how many readings agreed.
SELECT workflow, path, count(*) AS twice, count(*) FILTER (WHERE agreed) AS agreed
  FROM tasks
 WHERE reading = 2 AND agreed IS NOT NULL AND (%(workflow)s::text IS NULL OR workflow = %(workflow)s)
   AND (%(project)s::text IS NULL OR project = %(project)s)
 GROUP BY workflow, path ORDER BY workflow, path

-- claim --
-- Marks a task as taken in hand by a person.
UPDATE tasks SET state = 'claimed', claimed_by = %(by)s, claimed_id = %(by_id)s
 WHERE id = %(id)s AND assignee = %(seen)s
   AND (state = 'open' OR (state = 'claimed' AND claimed_by = %(by)s
                           AND (coalesce(claimed_id = %(by_id)s::text, claimed_id IS NULL) OR %(linked)s
            OR starts_with(claimed_id, 'link_'))))

-- release --
-- Puts a task back for the others it is assigned to.
UPDATE tasks SET state = 'open', claimed_by = NULL, claimed_id = NULL
 WHERE id = %(id)s AND state = 'claimed' AND claimed_by = %(by)s
   AND (coalesce(claimed_id = %(by_id)s::text, claimed_id IS NULL) OR %(linked)s
            OR starts_with(claimed_id, 'link_'))

-- hand_off --
-- Gives a task to somebody else, open again; the operator of the machine also takes it from who claimed it.
UPDATE tasks
   SET state = 'open', claimed_by = NULL, claimed_id = NULL, assignee = %(assignee)s, handed_off = handed_off + 1
 WHERE id = %(id)s AND assignee = %(seen)s
   AND (state = 'open' OR (state = 'claimed' AND (%(everywhere)s OR (
        claimed_by = %(by)s AND (coalesce(claimed_id = %(by_id)s::text, claimed_id IS NULL) OR %(linked)s
            OR starts_with(claimed_id, 'link_'))))))
RETURNING pg_notify('metier_tasks', json_build_object('task', id, 'what', 'handed_off')::text) IS NULL AS told

-- settle --
-- Ends a task with its decision, unless somebody else has it in hand or has ended it.
UPDATE tasks
   SET state = %(state)s::task_state, decision = %(decision)s, note = %(note)s, decided_by = %(by)s,
       decided_id = %(by_id)s, decided_at = %(now)s
 WHERE id = %(id)s AND assignee = %(seen)s
   AND (state = 'open' OR (state = 'claimed' AND (%(state)s = 'expired' OR (
        claimed_by = %(by)s AND (coalesce(claimed_id = %(by_id)s::text, claimed_id IS NULL) OR %(linked)s
            OR starts_with(claimed_id, 'link_'))))))
RETURNING pg_notify('metier_tasks', json_build_object('task', id, 'what', state)::text) IS NULL AS told

-- remind --
-- Gives the tasks whose reminder is due, and sets their next one.
WITH due AS (
UPDATE tasks SET reminded = reminded + 1, remind_at = reminders[1], reminders = reminders[2:]
 WHERE state IN ('open', 'claimed') AND remind_at <= %(now)s
RETURNING id),
told AS (INSERT INTO task_events (task, kind, at) SELECT id, 'reminded', %(now)s FROM due)
SELECT id, pg_notify('metier_tasks', json_build_object('task', id, 'what', 'reminder')::text) IS NULL AS told FROM due

-- reassign --
-- Gives the tasks past their due date to those the workflow named for that case; once.
WITH late AS (
UPDATE tasks
   SET state = 'open', claimed_by = NULL, claimed_id = NULL, assignee = on_timeout->>'reassign',
       handed_off = handed_off + 1, on_timeout = NULL
 WHERE state IN ('open', 'claimed') AND due_at <= %(now)s AND on_timeout ? 'reassign'
RETURNING id, assignee),
told AS (INSERT INTO task_events (task, kind, at, target) SELECT id, 'reassigned', %(now)s, assignee FROM late)
SELECT id, pg_notify('metier_tasks', json_build_object('task', id, 'what', 'reassigned')::text) IS NULL AS told FROM late

-- escalate --
-- Gives the tasks that nobody decided in time to the next level, whoever has them in hand.
WITH late AS (
UPDATE tasks
   SET state = 'open', claimed_by = NULL, claimed_id = NULL, assignee = escalations->0->>'to',
       handed_off = handed_off + 1, escalate_at = (escalations->1->>'at')::timestamptz, escalations = escalations - 0
 WHERE state IN ('open', 'claimed') AND escalate_at <= %(now)s
RETURNING id, assignee),
told AS (INSERT INTO task_events (task, kind, at, target) SELECT id, 'escalated', %(now)s, assignee FROM late)
SELECT id, pg_notify('metier_tasks', json_build_object('task', id, 'what', 'escalated')::text) IS NULL AS told FROM late

-- overdue --
-- Gives the tasks past their due date for which the workflow holds a decision ready.
SELECT tasks.*, runs.key_id AS starter_id, keys.name AS starter
  FROM tasks JOIN runs ON runs.id = tasks.run LEFT JOIN keys ON keys.id = runs.key_id
 WHERE tasks.state IN ('open', 'claimed') AND due_at <= %(now)s AND on_timeout ? 'output' LIMIT 500

-- misfit --
-- Gives a late task whose ready answer does not fit to those who look after the platform; once.
WITH late AS (
UPDATE tasks
   SET state = 'open', claimed_by = NULL, claimed_id = NULL, assignee = %(assignee)s, handed_off = handed_off + 1,
       on_timeout = NULL
 WHERE id = %(id)s AND state IN ('open', 'claimed')
RETURNING id, assignee),
told AS (INSERT INTO task_events (task, kind, at, target) SELECT id, 'reassigned', %(now)s, assignee FROM late)
SELECT pg_notify('metier_tasks', json_build_object('task', id, 'what', 'reassigned')::text) IS NULL AS told FROM late
