-- open --
-- Opens a task in the transaction that parks its run, and tells those who watch.
INSERT INTO tasks (id, run, workflow, project, path, attempt, name, title, assignee, payload, due_at, remind_at,
                   reminders, on_timeout, opened_at)
VALUES (%(id)s, %(run)s, %(workflow)s, %(project)s, %(path)s, %(attempt)s, %(name)s, %(title)s, %(assignee)s,
        %(payload)s, %(due_at)s, %(remind_at)s, %(reminders)s::timestamptz[], %(on_timeout)s::jsonb, %(opened_at)s)
RETURNING pg_notify('metier_tasks', json_build_object('task', id, 'what', 'opened')::text) IS NULL AS told

-- close --
-- Cancels the tasks of a run that is over.
UPDATE tasks SET state = 'cancelled', decided_at = %(now)s WHERE run = %(run)s AND state IN ('open', 'claimed')

-- get --
-- Gives one task, sealed parts included; nothing where it belongs to another organisation.
SELECT * FROM tasks
 WHERE id = %(id)s
   AND (%(organisation)s::text IS NULL OR %(organisation)s = coalesce(
        (SELECT organisation FROM projects WHERE projects.id = tasks.project), 'main'))

-- page --
-- Gives the tasks that wait for one of these groups or people, oldest first, those after a given one.
SELECT * FROM tasks
 WHERE state IN ('open', 'claimed')
   AND (%(assignees)s::text[] IS NULL OR assignee = ANY(%(assignees)s))
   AND (%(organisation)s::text IS NULL OR %(organisation)s = coalesce(
        (SELECT organisation FROM projects WHERE projects.id = tasks.project), 'main'))
   AND (%(run)s::text IS NULL OR run = %(run)s)
   AND (%(after)s::text IS NULL OR id > %(after)s)
 ORDER BY id
 LIMIT %(limit)s

-- of_run --
-- Gives every task a run has opened, those that are over too.
SELECT * FROM tasks WHERE run = %(run)s ORDER BY id

-- claim --
-- Marks a task as taken in hand by a person.
UPDATE tasks SET state = 'claimed', claimed_by = %(by)s, claimed_id = %(by_id)s
 WHERE id = %(id)s AND assignee = %(seen)s
   AND (state = 'open' OR (state = 'claimed' AND claimed_by = %(by)s
                           AND coalesce(claimed_id = %(by_id)s::text, claimed_id IS NULL)))

-- release --
-- Puts a task back for the others it is assigned to.
UPDATE tasks SET state = 'open', claimed_by = NULL, claimed_id = NULL
 WHERE id = %(id)s AND state = 'claimed' AND claimed_by = %(by)s
   AND coalesce(claimed_id = %(by_id)s::text, claimed_id IS NULL)

-- hand_off --
-- Gives a task to somebody else, open again; the operator of the machine also takes it from who claimed it.
UPDATE tasks
   SET state = 'open', claimed_by = NULL, claimed_id = NULL, assignee = %(assignee)s, handed_off = handed_off + 1
 WHERE id = %(id)s AND assignee = %(seen)s
   AND (state = 'open' OR (state = 'claimed' AND (%(everywhere)s OR (
        claimed_by = %(by)s AND coalesce(claimed_id = %(by_id)s::text, claimed_id IS NULL)))))
RETURNING pg_notify('metier_tasks', json_build_object('task', id, 'what', 'handed_off')::text) IS NULL AS told

-- settle --
-- Ends a task with its decision, unless somebody else has it in hand or has ended it.
UPDATE tasks
   SET state = %(state)s::task_state, decision = %(decision)s, note = %(note)s, decided_by = %(by)s,
       decided_id = %(by_id)s, decided_at = %(now)s
 WHERE id = %(id)s AND assignee = %(seen)s
   AND (state = 'open' OR (state = 'claimed' AND (%(state)s = 'expired' OR (
        claimed_by = %(by)s AND coalesce(claimed_id = %(by_id)s::text, claimed_id IS NULL)))))
RETURNING pg_notify('metier_tasks', json_build_object('task', id, 'what', state)::text) IS NULL AS told

-- remind --
-- Gives the tasks whose reminder is due, and sets their next one.
UPDATE tasks SET reminded = reminded + 1, remind_at = reminders[1], reminders = reminders[2:]
 WHERE state IN ('open', 'claimed') AND remind_at <= %(now)s
RETURNING id, pg_notify('metier_tasks', json_build_object('task', id, 'what', 'reminder')::text) IS NULL AS told

-- reassign --
-- Gives the tasks past their due date to those the workflow named for that case; once.
UPDATE tasks
   SET state = 'open', claimed_by = NULL, claimed_id = NULL, assignee = on_timeout->>'reassign',
       handed_off = handed_off + 1, on_timeout = NULL
 WHERE state IN ('open', 'claimed') AND due_at <= %(now)s AND on_timeout ? 'reassign'
RETURNING id, pg_notify('metier_tasks', json_build_object('task', id, 'what', 'reassigned')::text) IS NULL AS told

-- overdue --
-- Gives the tasks past their due date for which the workflow holds a decision ready.
SELECT * FROM tasks WHERE state IN ('open', 'claimed') AND due_at <= %(now)s AND on_timeout ? 'output' LIMIT 500

-- misfit --
-- Gives a late task whose ready answer does not fit to those who look after the platform; once.
UPDATE tasks
   SET state = 'open', claimed_by = NULL, claimed_id = NULL, assignee = %(assignee)s, handed_off = handed_off + 1,
       on_timeout = NULL
 WHERE id = %(id)s AND state IN ('open', 'claimed')
RETURNING pg_notify('metier_tasks', json_build_object('task', id, 'what', 'reassigned')::text) IS NULL AS told
