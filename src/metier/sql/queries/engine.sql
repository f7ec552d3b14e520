-- pin --
-- Keeps a definition for as long as the database lives; the same content is kept once.
INSERT INTO definitions (hash, name, data) VALUES (%(hash)s, %(name)s, %(data)s) ON CONFLICT (hash) DO NOTHING

-- pinned --
-- Gives a pinned definition by its hash.
SELECT data FROM definitions WHERE hash = %(hash)s

-- create --
-- Makes a run, or nothing when the same cause already started one of the project.
INSERT INTO runs (id, workflow, definition, key_id, project, system, rights, dedupe, inputs, priority, status, place,
                  hours, asked_hours, opens_at)
VALUES (%(id)s, %(workflow)s, %(definition)s, %(key_id)s, %(project)s, %(system)s, %(rights)s, %(dedupe)s, %(inputs)s,
        %(priority)s, %(status)s::run_status, now() - make_interval(mins => %(priority)s), %(hours)s,
        %(asked_hours)s, %(opens_at)s)
ON CONFLICT (project, workflow, dedupe) WHERE dedupe IS NOT NULL DO NOTHING
RETURNING id

-- by_dedupe --
-- Gives the run a cause has started in a project.
SELECT id FROM runs WHERE project = %(project)s AND workflow = %(workflow)s AND dedupe = %(dedupe)s

-- take --
-- Gives the run to a worker: a new epoch, and a strike when nothing was journalled since it was last taken.
UPDATE runs
   SET epoch = epoch + 1, status = 'running', parked_on = NULL, wake_at = NULL, error = NULL, updated_at = now(),
       strikes = CASE WHEN epoch > 0 AND progress = found.lines THEN strikes + 1 ELSE 1 END, progress = found.lines
  FROM (SELECT count(*) AS lines FROM journal WHERE run = %(id)s) found
 WHERE id = %(id)s AND status IN ('pending', 'running', 'waiting') AND paused_at IS NULL
   AND NOT EXISTS (SELECT 1 FROM runs above WHERE above.id = runs.parent AND above.paused_at IS NOT NULL)
RETURNING id, workflow, definition, epoch, progress, strikes, signals, key_id, project, system, rights, inputs, parent,
          parent_path, parent_attempt, item, allowance_eur, told_eur,
          (SELECT blobs.sealed FROM blobs WHERE blobs.digest = around) AS around_sealed, around

-- halt --
-- Makes a run stand still at a boundary when it, or the run it belongs to, is to be paused.
UPDATE runs
   SET status = 'paused', paused_at = coalesce(paused_at, now()), cost_eur = coalesce(%(cost_eur)s, cost_eur),
       updated_at = now()
 WHERE id = %(id)s AND status IN ('pending', 'running', 'waiting')
   AND (%(epoch)s::bigint IS NULL OR epoch = %(epoch)s)
   AND (paused_at IS NOT NULL
        OR EXISTS (SELECT 1 FROM runs above WHERE above.id = runs.parent AND above.paused_at IS NOT NULL))
RETURNING pg_notify('metier_runs', json_build_object('run', id, 'status', status)::text) IS NULL AS told

-- give_back --
-- Makes a run pending again when its worker stops before it is done; this is no strike.
UPDATE runs SET status = 'pending', strikes = greatest(strikes - 1, 0), updated_at = now()
 WHERE id = %(id)s AND epoch = %(epoch)s AND status = 'running'

-- look --
-- Says whether a worker still holds a run, and of how many signals the run was told.
SELECT signals FROM runs WHERE id = %(id)s AND epoch = %(epoch)s AND status = 'running'

-- park --
-- Puts a run aside until somebody decides, something happens or a time comes; not when a signal came meanwhile.
UPDATE runs
   SET status = CASE WHEN paused_at IS NOT NULL THEN 'paused'::run_status
                     WHEN %(wake_at)s::timestamptz IS NULL THEN 'parked' ELSE 'waiting' END,
       parked_on = %(path)s, wake_at = %(wake_at)s, updated_at = now(), cost_eur = %(cost_eur)s
 WHERE id = %(id)s AND epoch = %(epoch)s AND status = 'running' AND signals = %(signals)s
RETURNING pg_notify('metier_runs', json_build_object('run', id, 'status', status)::text) IS NULL AS told

-- finish --
-- Ends a run with its output, its failure, or as one that keeps dying.
UPDATE runs
   SET status = %(status)s::run_status, output = %(output)s, outcome = %(outcome)s, error = %(error)s,
       cost_eur = coalesce(%(cost_eur)s, cost_eur), updated_at = now(), finished_at = now(),
       paused_at = NULL   -- what was to stand still at its next boundary has come to its end
 WHERE id = %(id)s AND epoch = %(epoch)s AND status = 'running'
RETURNING pg_notify('metier_runs', json_build_object('run', id, 'status', status)::text) IS NULL AS told

-- lock --
-- Holds the row of a run for the rest of the transaction.
SELECT status, definition, error, parent, parent_path, parent_attempt, item FROM runs WHERE id = %(id)s
   FOR UPDATE OF runs

-- stamp --
-- Gives what changes whenever the journal of a run that stands still gets a line.
SELECT status, epoch, signals FROM runs WHERE id = %(id)s

-- told --
-- Counts a signal to a run, and makes it pending again when it was put aside; its worker looks for itself.
UPDATE runs
   SET signals = signals + 1,
       status = CASE WHEN status IN ('parked', 'waiting') THEN 'pending' ELSE status END,
       strikes = CASE WHEN status IN ('parked', 'waiting') THEN 0 ELSE strikes END,
       parked_on = CASE WHEN status IN ('parked', 'waiting') THEN NULL ELSE parked_on END,
       wake_at = CASE WHEN status IN ('parked', 'waiting') THEN NULL ELSE wake_at END,
       updated_at = now()
 WHERE id = %(id)s AND status IN ('queued', 'pending', 'running', 'parked', 'waiting', 'paused')
RETURNING signals, status,
          pg_notify('metier_runs', json_build_object('run', id, 'status', status)::text) IS NULL AS told

-- revive --
-- Makes a run pending again, without strikes and without what it had come to.
UPDATE runs
   SET status = 'pending', strikes = 0, epoch = epoch + 1, error = NULL, output = NULL, outcome = NULL,
       finished_at = NULL, parked_on = NULL, wake_at = NULL, paused_at = NULL, looked_at = NULL,
       signals = signals + 1, updated_at = now()
 WHERE id = %(id)s
RETURNING pg_notify('metier_runs', json_build_object('run', id, 'status', status)::text) IS NULL AS told

-- untold --
-- Gives the runs some runs have started of which no line of these tells what they have spent: they were left behind, or
-- are items that nobody has gathered.
SELECT id, told_eur FROM runs WHERE parent = ANY(%(ids)s::text[]) AND item IS NULL AND left_behind
UNION ALL
SELECT id, told_eur FROM runs
 WHERE parent = ANY(%(ids)s::text[]) AND item IS NOT NULL AND parent_path NOT LIKE '%% ~%%'
   AND NOT EXISTS (SELECT 1 FROM journal
                    WHERE run = runs.parent AND path = runs.parent_path AND attempt = runs.parent_attempt
                      AND name = '!gathered')

-- untold_at --
-- Gives the runs that some steps of a run, or of some runs below it, have started and that no line tells the spending of:
-- they are not over, were left behind, or are items that nobody has gathered.
SELECT id, told_eur FROM runs
 WHERE parent = ANY(%(ids)s::text[]) AND (%(paths)s::text[] IS NULL OR parent_path = ANY(%(paths)s::text[]))
   AND item IS NULL AND (left_behind OR status NOT IN ('done', 'failed', 'dead', 'cancelled'))
UNION ALL
SELECT id, told_eur FROM runs
 WHERE parent = ANY(%(ids)s::text[]) AND (%(paths)s::text[] IS NULL OR parent_path = ANY(%(paths)s::text[]))
   AND item IS NOT NULL AND parent_path NOT LIKE '%% ~%%'
   AND NOT EXISTS (SELECT 1 FROM journal
                    WHERE run = runs.parent AND path = runs.parent_path AND attempt = runs.parent_attempt
                      AND name = '!gathered')

-- spent_by --
-- Adds up what the lines of some runs have cost, with answers of steps that had not ended.
SELECT coalesce(sum(line.cost_eur), 0) AS eur
  FROM unnest(%(ids)s::text[]) AS each (run) JOIN journal line ON line.run = each.run AND line.cost_eur > 0
 WHERE line.name IN ('', '!gathered')
    OR line.kind = 'answer'
       AND NOT EXISTS (SELECT 1 FROM journal ended
                        WHERE ended.run = line.run AND ended.path = line.path AND ended.attempt = line.attempt
                          AND ended.name = '')

-- count_spent --
-- Counts what a run that is over has cost: its lines and those of some runs below it, with answers of steps that had not
-- ended, less what the run above each of them was told already.
UPDATE runs
   SET cost_eur = -%(told_eur)s::numeric + (
       SELECT coalesce(sum(own.eur), 0)
         FROM unnest(%(ids)s::text[]) AS each (run) CROSS JOIN LATERAL (
             SELECT sum(line.cost_eur) AS eur FROM journal line
              WHERE line.run = each.run AND line.cost_eur > 0
                AND (line.name IN ('', '!gathered')
                     OR line.kind = 'answer'
                        AND NOT EXISTS (SELECT 1 FROM journal ended
                                         WHERE ended.run = line.run AND ended.path = line.path
                                           AND ended.attempt = line.attempt AND ended.name = ''))) own)
 WHERE id = %(id)s
RETURNING cost_eur

-- cancel --
-- Ends a run that is not over; the new epoch refuses whatever its worker still writes. Who was let in held money.
UPDATE runs SET status = 'cancelled', epoch = epoch + 1, parked_on = NULL, wake_at = NULL,
                updated_at = now(), finished_at = now()
  FROM (SELECT id, status <> 'queued' OR item IS NULL OR place IS NOT NULL AS let_in
          FROM runs WHERE id = %(id)s FOR UPDATE) before
 WHERE runs.id = before.id AND status NOT IN ('done', 'cancelled')
   AND NOT (status IN ('failed', 'dead') AND parent IS NOT NULL)   -- the run above has counted it
RETURNING project, parent, parent_path, parent_attempt, item, let_in,
          CASE WHEN let_in THEN allowance_eur END AS allowance_eur, told_eur,
          pg_notify('metier_runs', json_build_object('run', runs.id, 'status', status)::text) IS NULL AS told

-- lock_below --
-- Holds the rows of the runs below a run that are not over, the deepest first: as the end of each of them does.
WITH RECURSIVE below AS (
    SELECT id, 1 AS depth FROM runs WHERE parent = %(id)s
    UNION ALL
    SELECT runs.id, below.depth + 1 FROM runs JOIN below ON runs.parent = below.id
)
SELECT runs.id FROM runs JOIN below ON runs.id = below.id
 WHERE runs.status NOT IN ('done', 'failed', 'dead', 'cancelled')
 ORDER BY below.depth DESC, runs.id
   FOR UPDATE OF runs

-- below --
-- Gives the runs a run has started, and those they have, the oldest first.
WITH RECURSIVE family AS (
    SELECT id FROM runs WHERE parent = %(id)s
    UNION ALL
    SELECT runs.id FROM runs JOIN family ON runs.parent = family.id
)
SELECT runs.id, workflow, definition, status, outcome, key_id, project, system, dedupe, parked_on, wake_at, cost_eur,
       error, strikes, created_at, updated_at, finished_at, parent, forked_from, paused_at, hours, opens_at
  FROM runs JOIN family ON runs.id = family.id
 ORDER BY runs.id
 LIMIT %(most)s

-- pause --
-- Makes a run, and those below it, stand still: at once where nothing is done for it, else at its next boundary.
WITH RECURSIVE family AS (
    SELECT id FROM runs WHERE id = %(id)s
    UNION ALL
    SELECT runs.id FROM runs JOIN family ON runs.parent = family.id
)
UPDATE runs
   SET paused_at = now(), updated_at = now(),
       status = CASE WHEN status IN ('pending', 'waiting', 'parked') THEN 'paused'::run_status ELSE status END
  FROM family
 WHERE runs.id = family.id AND paused_at IS NULL
   AND (runs.status IN ('pending', 'running', 'waiting', 'parked') OR runs.id = %(id)s AND runs.status = 'queued')
RETURNING runs.id, runs.status,
          pg_notify('metier_runs', json_build_object('run', runs.id, 'status', runs.status)::text) IS NULL AS told

-- unpause --
-- Lets a run, and those below it, go on where they stood still.
WITH RECURSIVE family AS (
    SELECT id FROM runs WHERE id = %(id)s
       AND NOT EXISTS (SELECT 1 FROM runs above WHERE above.id = runs.parent AND above.paused_at IS NOT NULL)
    UNION ALL
    SELECT runs.id FROM runs JOIN family ON runs.parent = family.id
)
UPDATE runs
   SET paused_at = NULL, updated_at = now(), strikes = 0,
       parked_on = CASE WHEN status = 'paused' THEN NULL ELSE parked_on END,
       wake_at = CASE WHEN status = 'paused' THEN NULL ELSE wake_at END,
       status = CASE WHEN status = 'paused' THEN 'pending' ELSE status END
  FROM family
 WHERE runs.id = family.id AND paused_at IS NOT NULL AND runs.status NOT IN ('done', 'failed', 'dead', 'cancelled')
RETURNING runs.id, runs.status,
          pg_notify('metier_runs', json_build_object('run', runs.id, 'status', runs.status)::text) IS NULL AS told

-- get --
-- Gives one run without its contents.
SELECT id, workflow, definition, status, outcome, key_id, project, system, dedupe, parked_on, wake_at, cost_eur, error,
       strikes, created_at, updated_at, finished_at, parent, forked_from, paused_at, hours, opens_at
  FROM runs WHERE id = %(id)s

-- contents --
-- Gives the sealed inputs and output of one run, and what it was bounded by and saw around it.
SELECT definition, inputs, output, allowance_eur, around,
       (SELECT blobs.sealed FROM blobs WHERE blobs.digest = around) AS around_sealed
  FROM runs WHERE id = %(id)s

-- page --
-- Gives one page of runs, newest first, those before a given one.
SELECT id, workflow, definition, status, outcome, key_id, project, system, dedupe, parked_on, wake_at, cost_eur, error,
       strikes, created_at, updated_at, finished_at, parent, forked_from, paused_at, hours, opens_at
  FROM runs
 WHERE (%(workflow)s::text IS NULL OR workflow = %(workflow)s)
   AND (%(project)s::text IS NULL OR project = %(project)s)
   AND (%(status)s::run_status IS NULL OR status = %(status)s)
   AND (%(before)s::text IS NULL OR id < %(before)s)
 ORDER BY id DESC
 LIMIT %(limit)s


-- open --
-- Notes what a run begins to wait for, for the worker that holds it.
WITH held AS MATERIALIZED (
    SELECT id FROM runs WHERE id = %(run)s AND epoch = %(epoch)s AND status = 'running' FOR SHARE
)
INSERT INTO waits (run, path, attempt, name, kind, project, event, key)
SELECT held.id, %(path)s, %(attempt)s, %(name)s, %(kind)s, %(project)s, %(event)s, %(key)s FROM held
ON CONFLICT (run, path, attempt, name) DO NOTHING
RETURNING path

-- opened --
-- Gives what a run waits for.
SELECT path, attempt, name FROM waits WHERE run = %(run)s

-- settle --
-- Takes away what a run waits for: whoever does it may say what came of it.
DELETE FROM waits WHERE run = %(run)s AND path = %(path)s AND attempt = %(attempt)s AND name = %(name)s
RETURNING path

-- lock_event --
-- Lets one at a time tell, or begin to wait for, an event of a name and key; says whose it is.
SELECT pg_advisory_xact_lock(hashtextextended(%(project)s || '/' || %(event)s || '/' || %(key)s, 77)) IS NULL AS held,
       coalesce((SELECT organisation FROM projects WHERE id = %(project)s), 'main') AS organisation

-- emit --
-- Keeps an event, once for each cause.
INSERT INTO events (id, project, event, key, data)
VALUES (%(id)s, %(project)s, %(event)s, %(key)s, %(data)s) ON CONFLICT (id) DO NOTHING

-- awaiting --
-- Gives the steps that wait for an event, in an order in which every teller locks their runs.
SELECT run, path, attempt FROM waits
 WHERE kind = 'event' AND project = %(project)s AND event = %(event)s AND key = %(key)s
 ORDER BY run, path, attempt

-- happened --
-- Gives the first event of a name and key since a run was made that the run has not had yet.
SELECT id, data, at FROM events
 WHERE project = %(project)s AND event = %(event)s AND key = %(key)s
   AND at >= (SELECT created_at FROM runs WHERE runs.id = %(run)s) AND NOT events.id = ANY(%(had)s::text[])
 ORDER BY at, id LIMIT 1

-- start_child --
-- Makes a run for a step of another one, or nothing when there is one.
INSERT INTO runs (id, workflow, definition, key_id, project, system, rights, inputs, parent, parent_path,
                  parent_attempt, allowance_eur, priority)
SELECT %(id)s, %(workflow)s, %(definition)s, run.key_id, run.project, run.system, %(rights)s, %(inputs)s, run.id,
       %(path)s, %(attempt)s, %(allowance_eur)s, run.priority
  FROM runs run WHERE run.id = %(parent)s
ON CONFLICT (parent, parent_path, parent_attempt) WHERE parent IS NOT NULL AND item IS NULL DO NOTHING
RETURNING id

-- depth --
-- Counts the runs a run stands below, up to a bound.
WITH RECURSIVE up AS (
    SELECT parent, 0 AS depth FROM runs WHERE id = %(id)s
    UNION ALL
    SELECT runs.parent, up.depth + 1 FROM runs JOIN up ON runs.id = up.parent WHERE up.depth < %(most)s
)
SELECT max(depth) AS depth FROM up

-- child_of --
-- Gives the run a step has started.
SELECT id FROM runs
 WHERE parent = %(parent)s AND parent_path = %(path)s AND parent_attempt = %(attempt)s AND item IS NULL

-- failed_call --
-- Gives the run a step has started under the attempt before, where that one failed or a person has cancelled it.
SELECT id, error, cost_eur FROM runs
 WHERE parent = %(parent)s AND parent_path = %(path)s AND parent_attempt = %(attempt)s - 1 AND item IS NULL
   AND (status IN ('failed', 'dead') OR status = 'cancelled' AND NOT left_behind)
   FOR UPDATE OF runs

-- failed_items --
-- Gives those of some items that failed under the attempt before, or that somebody cancelled, or that were dropped.
SELECT id, error, cost_eur FROM runs
 WHERE parent = %(parent)s AND parent_path = %(path)s AND parent_attempt = %(attempt)s - 1
   AND item = ANY(%(items)s::integer[])
   AND (status IN ('failed', 'dead') OR status = 'cancelled' AND NOT left_behind)
 ORDER BY item
   FOR UPDATE OF runs

-- holds --
-- Says whether a worker holds a run, and sees to it that this stays so for the rest of the transaction.
SELECT id FROM runs WHERE id = %(id)s AND epoch = %(epoch)s AND status = 'running' FOR SHARE

-- take_up --
-- Lets runs that failed go on under another attempt of their step; their parent has counted what they have cost.
UPDATE runs
   SET status = %(status)s::run_status, parent_attempt = %(attempt)s, told_eur = cost_eur,
       allowance_eur = %(allowance_eur)s::numeric, place = NULL, strikes = 0, epoch = epoch + 1,
       finished_at = NULL, parked_on = NULL, wake_at = NULL, paused_at = NULL, looked_at = NULL,
       signals = signals + 1, updated_at = now()
 WHERE id = ANY(%(ids)s)
RETURNING pg_notify('metier_runs', json_build_object('run', id, 'status', status)::text) IS NULL AS told

-- left_behind --
-- Lets the runs go on that were cancelled because some runs had come to an end, with all below them.
WITH RECURSIVE behind AS (
    SELECT id FROM runs WHERE parent = ANY(%(ids)s) AND left_behind
    UNION ALL
    SELECT runs.id FROM runs JOIN behind ON runs.parent = behind.id WHERE runs.left_behind
)
UPDATE runs
   SET status = CASE WHEN item IS NOT NULL AND place IS NULL THEN 'queued' ELSE 'pending' END::run_status,
       left_behind = false, strikes = 0, epoch = epoch + 1, finished_at = NULL, looked_at = NULL, paused_at = NULL,
       signals = signals + 1, updated_at = now()
  FROM behind
 WHERE runs.id = behind.id AND status = 'cancelled'
RETURNING runs.id, status::text

-- forget_questions --
-- Takes away the questions of a run that were closed when it was left behind: they are asked again.
DELETE FROM waits WHERE run = %(run)s AND kind = 'task'

-- start_items --
-- Makes a queued run for each of some items, for the worker that holds their parent; those that are there already stay
-- as they are. Gives nothing to a worker that has lost it.
WITH held AS MATERIALIZED (
    SELECT id, key_id, project, system, priority FROM runs
     WHERE id = %(parent)s AND epoch = %(epoch)s AND status = 'running' FOR SHARE
), made AS (
    INSERT INTO runs (id, workflow, definition, status, key_id, project, system, rights, inputs, parent, parent_path,
                      parent_attempt, item, around, allowance_eur, priority)
    SELECT line.id, %(workflow)s, %(definition)s, 'queued', held.key_id, held.project, held.system, line.rights,
           line.inputs, held.id, %(path)s, %(attempt)s, line.item, %(around)s, %(allowance_eur)s, held.priority
      FROM held,
           unnest(%(ids)s::text[], %(rights)s::bytea[], %(inputs)s::bytea[], %(items)s::integer[])
               AS line (id, rights, inputs, item)
    ON CONFLICT (parent, parent_path, parent_attempt, item) WHERE item IS NOT NULL DO NOTHING
)
SELECT id FROM held

-- begin_items --
-- Notes how many items have to end before their parent goes on.
INSERT INTO item_groups (parent, path, attempt, items_left, collects, purse_eur)
VALUES (%(parent)s, %(path)s, %(attempt)s, %(items_left)s, %(collects)s, %(purse_eur)s)

-- next_items --
-- Puts the next items of a step in line, each with an equal part of the money nothing is put aside for.
WITH due AS (
    SELECT id FROM runs
     WHERE parent = %(parent)s AND parent_path = %(path)s AND parent_attempt = %(attempt)s AND status = 'queued'
       AND place IS NULL
     ORDER BY item LIMIT %(number)s FOR UPDATE SKIP LOCKED
), counted AS (
    SELECT count(*) AS number FROM due
), part AS (
    UPDATE item_groups
       SET held_eur = held_eur + counted.number * trunc(
           greatest(purse_eur - spent_eur - held_eur, 0) / counted.number, 9)
      FROM counted
     WHERE parent = %(parent)s AND path = %(path)s AND attempt = %(attempt)s AND purse_eur IS NOT NULL
       AND counted.number > 0
), share AS (
    SELECT CASE WHEN purse_eur IS NOT NULL
                THEN trunc(greatest(purse_eur - spent_eur - held_eur, 0) / nullif(counted.number, 0), 9) END AS eur
      FROM item_groups, counted
     WHERE parent = %(parent)s AND path = %(path)s AND attempt = %(attempt)s
)
-- Items begun before there were purses keep what each of them was given.
UPDATE runs SET place = now() - make_interval(mins => priority), allowance_eur = coalesce(share.eur + told_eur, allowance_eur),
                updated_at = now()
  FROM due, share
 WHERE runs.id = due.id
RETURNING runs.id

-- in_line --
-- Gives those next in line of a project, but none of flows that are full, nor before their hours.
SELECT id, workflow, hours FROM runs
 WHERE project = %(project)s AND status = 'queued' AND place IS NOT NULL
   AND (opens_at IS NULL OR opens_at <= %(now)s) AND split_part(workflow, '/', 1) <> ALL(%(full)s::text[])
 ORDER BY place, id LIMIT %(number)s FOR UPDATE SKIP LOCKED

-- let_in --
-- Makes runs in line pending.
UPDATE runs SET status = 'pending', updated_at = now(), admitted_at = %(counted)s WHERE id = ANY(%(ids)s)

-- shut --
-- Has the runs of a project that may only begin in some hours wait until these come again.
UPDATE runs SET opens_at = %(opens_at)s
 WHERE project = %(project)s AND status = 'queued' AND place IS NOT NULL AND hours = %(hours)s
   AND (opens_at IS NULL OR opens_at <= %(now)s)

-- item_ended --
-- Counts items that are over with what they have spent, and says how many are left; nothing more is put aside for them.
UPDATE item_groups
   SET items_left = items_left - %(number)s, spent_eur = spent_eur + %(spent_eur)s,
       held_eur = held_eur - CASE WHEN purse_eur IS NULL THEN 0 ELSE coalesce(%(held_eur)s, 0) END
 WHERE parent = %(parent)s AND path = %(path)s AND attempt = %(attempt)s
RETURNING items_left, collects

-- drop_items --
-- Cancels the items that have not begun, or not gone on.
UPDATE runs SET status = 'cancelled', updated_at = now(), finished_at = now()
 WHERE id IN (
    SELECT id FROM runs
     WHERE parent = %(parent)s AND parent_path = %(path)s AND parent_attempt = %(attempt)s AND status = 'queued'
     FOR UPDATE)
RETURNING CASE WHEN place IS NOT NULL THEN allowance_eur - told_eur END AS held_eur

-- items_left --
-- Says how many items of a step are not over.
SELECT items_left FROM item_groups WHERE parent = %(parent)s AND path = %(path)s AND attempt = %(attempt)s

-- outcomes --
-- Gives what the items of a step came to, in their order.
SELECT id, item, status, output, error, cost_eur - told_eur AS cost_eur FROM runs
 WHERE parent = %(parent)s AND parent_path = %(path)s AND parent_attempt = %(attempt)s AND item IS NOT NULL
 ORDER BY item

-- descendants --
-- Cancels the runs below a run that are not over, and names those that were begun.
WITH RECURSIVE below AS (
    SELECT id, status FROM runs WHERE parent = %(id)s
    UNION ALL
    SELECT runs.id, runs.status FROM runs JOIN below ON runs.parent = below.id
)
UPDATE runs SET status = 'cancelled', epoch = epoch + 1, parked_on = NULL, wake_at = NULL, updated_at = now(),
                finished_at = now(), left_behind = true
  FROM below
 WHERE runs.id = below.id AND runs.status NOT IN ('done', 'failed', 'dead', 'cancelled')
RETURNING runs.id, below.status <> 'queued' AS begun

-- kept --
-- Gives what a step gave before for the same, while it holds.
SELECT sealed FROM kept_results WHERE digest = %(digest)s AND expires_at > now()

-- keep --
-- Keeps what a step gave, and forgets some of what no longer holds.
WITH gone AS (
    DELETE FROM kept_results WHERE digest IN (
        SELECT digest FROM kept_results WHERE expires_at < now() LIMIT 100 FOR UPDATE SKIP LOCKED)
)
INSERT INTO kept_results (digest, sealed, expires_at)
VALUES (%(digest)s, %(sealed)s, now() + make_interval(secs => %(for_s)s))
ON CONFLICT (digest) DO UPDATE SET sealed = excluded.sealed, expires_at = excluded.expires_at

-- kept_page --
-- Gives what steps keep, a page at a time.
SELECT digest, sealed FROM kept_results WHERE digest > %(after)s ORDER BY digest LIMIT %(most)s

-- drop_kept --
-- Forgets some of what steps keep.
DELETE FROM kept_results WHERE digest = ANY(%(digests)s::bytea[])

-- events_page --
-- Gives the events of an organisation, or of one of its projects, that nobody holds back, a page at a time.
SELECT events.id, events.data FROM events LEFT JOIN projects ON projects.id = events.project
 WHERE events.id > %(after)s AND coalesce(projects.organisation, 'main') = %(organisation)s
   AND (%(project)s::text IS NULL OR events.project = %(project)s)
   AND NOT EXISTS (SELECT 1 FROM legal_holds WHERE released_at IS NULL
                      AND (scope = 'project' AND target = events.project OR scope = 'subject' AND target = %(person)s))
 ORDER BY events.id LIMIT %(most)s

-- drop_events --
-- Deletes some events.
DELETE FROM events WHERE id = ANY(%(ids)s::text[])

-- forget_waits --
-- Takes away what a run that is over waited for; runs it has asked answer it once both go on.
DELETE FROM waits WHERE run = %(run)s AND kind <> 'run'

-- drop_below --
-- Cancels the runs that some steps of a run have started, with all below them, and frees the places of those steps.
WITH RECURSIVE gone AS (
    SELECT id FROM runs WHERE parent = %(run)s AND parent_path = ANY(%(paths)s::text[])
    UNION ALL
    SELECT runs.id FROM runs JOIN gone ON runs.parent = gone.id
)
UPDATE runs
   SET status = CASE WHEN status IN ('done', 'failed', 'dead', 'cancelled') THEN status ELSE 'cancelled' END,
       epoch = CASE WHEN status IN ('done', 'failed', 'dead', 'cancelled') THEN epoch ELSE epoch + 1 END,
       finished_at = coalesce(finished_at, now()), updated_at = now(),
       parent_path = CASE WHEN parent = %(run)s THEN parent_path || %(mark)s ELSE parent_path END, left_behind = false
  FROM gone
 WHERE runs.id = gone.id
RETURNING runs.id, finished_at = now() AS begun

-- drop_groups --
-- Forgets how many items of some steps of a run are left.
DELETE FROM item_groups WHERE parent = %(run)s AND path = ANY(%(paths)s::text[])

-- drop_waits --
-- Takes away what a run waits for at all but some paths.
DELETE FROM waits WHERE run = %(run)s AND NOT (path = ANY(%(kept)s::text[]))

-- fork --
-- Makes a run that goes on from another one, or nothing when it is there already.
INSERT INTO runs (id, workflow, definition, key_id, project, system, rights, dedupe, inputs, priority, forked_from,
                  status, place, hours, asked_hours, opens_at)
SELECT %(id)s, %(workflow)s, %(definition)s, key_id, project, system, %(rights)s, %(dedupe)s, %(inputs)s, priority, id,
       %(status)s::run_status, now() - make_interval(mins => priority), %(hours)s, %(asked_hours)s, %(opens_at)s
  FROM runs WHERE id = %(from)s
ON CONFLICT (project, workflow, dedupe) WHERE dedupe IS NOT NULL DO NOTHING
RETURNING id

-- sealed_parts --
-- Gives what a fork of a run begins with, and whether the run is one of another.
SELECT workflow, definition, project, inputs, rights, parent, around, asked_hours FROM runs WHERE id = %(id)s

-- search --
-- Gives runs, newest first, by what is known of them without opening anything.
SELECT id, workflow, definition, status, outcome, key_id, project, system, dedupe, parked_on, wake_at, cost_eur, error,
       strikes, created_at, updated_at, finished_at, parent, forked_from, paused_at, hours, opens_at
  FROM runs
 WHERE (parent IS NULL OR %(children)s)
   AND (NOT %(stuck)s OR parent IS NULL
        OR EXISTS (SELECT 1 FROM runs above WHERE above.id = runs.parent AND above.status NOT IN ('done', 'cancelled')))
   AND (%(workflow)s::text IS NULL OR workflow = %(workflow)s)
   AND (%(project)s::text IS NULL OR project = %(project)s)
   AND (%(statuses)s::run_status[] IS NULL OR status = ANY(%(statuses)s))
   AND (%(since)s::timestamptz IS NULL OR created_at >= %(since)s)
   AND (%(until)s::timestamptz IS NULL OR created_at < %(until)s)
   AND (%(before)s::text IS NULL OR id < %(before)s)
 ORDER BY id DESC
 LIMIT %(limit)s

-- copy_people --
-- Notes for a fork who is in the run it goes on from.
INSERT INTO run_people (run, person)
SELECT %(run)s, person FROM run_people WHERE run = %(from)s ON CONFLICT DO NOTHING

-- add_people --
-- Notes who is in a run.
INSERT INTO run_people (run, person)
SELECT runs.id, line.person FROM runs, unnest(%(people)s::text[]) AS line (person)
 WHERE runs.id = %(run)s ON CONFLICT DO NOTHING

-- not_looked_at --
-- Gives runs that are over and were not gone through for people since.
SELECT id, rights, inputs, output, error, around,
       (SELECT blobs.sealed FROM blobs WHERE blobs.digest = around) AS around_sealed
  FROM runs
 WHERE finished_at IS NOT NULL AND looked_at IS NULL
 ORDER BY finished_at, id LIMIT %(most)s

-- standing --
-- Gives runs that are not over, a page at a time, to be gone through for people.
SELECT id, rights, inputs, output, error, around,
       (SELECT blobs.sealed FROM blobs WHERE blobs.digest = around) AS around_sealed
  FROM runs
 WHERE finished_at IS NULL AND id > %(after)s
 ORDER BY id LIMIT %(most)s

-- looked_at --
-- Notes that a run that is over was gone through for people.
UPDATE runs SET looked_at = now() WHERE id = %(id)s AND finished_at IS NOT NULL

-- of_person --
-- Gives the runs in which a person is, by the run that started them all, and whether somebody holds them back.
WITH RECURSIVE up AS (
    SELECT runs.id, runs.parent FROM run_people JOIN runs ON runs.id = run_people.run WHERE person = %(person)s
    UNION
    SELECT runs.id, runs.parent FROM up JOIN runs ON runs.id = up.parent
), held AS MATERIALIZED (
    -- Whoever else is held may be in the same runs, or in those below them.
    SELECT id, hold FROM runs_held
)
SELECT runs.id, runs.status, coalesce(
    (SELECT min(id) FROM legal_holds
      WHERE released_at IS NULL
        AND (scope = 'system' AND target = runs.system OR scope = 'project' AND target = runs.project
             OR scope = 'subject' AND target = %(person)s)),
    (SELECT min(hold) FROM held WHERE held.id = runs.id)) AS hold
  FROM up JOIN runs ON runs.id = up.id
 WHERE runs.parent IS NULL AND (%(project)s::text IS NULL OR runs.project = %(project)s)
 ORDER BY runs.id

-- expired_runs --
-- Counts runs that are over for longer than a flow, a project or the house keeps them, by flow and project.
SELECT workflow, project, count(*) AS runs, min(finished_at) AS oldest
  FROM runs
 WHERE parent IS NULL AND status IN ('done', 'failed', 'cancelled', 'dead')
   AND (%(project)s::text IS NULL OR project = %(project)s)
   AND finished_at < %(now)s::timestamptz - make_interval(days => coalesce(
       (%(flows)s::jsonb ->> workflow)::integer, (%(projects)s::jsonb ->> project)::integer, %(days)s))
   AND NOT EXISTS (SELECT 1 FROM legal_holds WHERE released_at IS NULL
                      AND (scope = 'system' AND target = runs.system OR scope = 'project' AND target = runs.project))
   AND NOT EXISTS (SELECT FROM runs_held WHERE runs_held.id = runs.id)
 GROUP BY workflow, project ORDER BY workflow, project

-- expire_runs --
-- Deletes some of them, with all they hold and all they had started.
DELETE FROM runs WHERE id IN (
    SELECT id FROM runs
     WHERE parent IS NULL AND status IN ('done', 'failed', 'cancelled', 'dead')
       AND (%(project)s::text IS NULL OR project = %(project)s)
       AND finished_at < %(now)s::timestamptz - make_interval(days => coalesce(
           (%(flows)s::jsonb ->> workflow)::integer, (%(projects)s::jsonb ->> project)::integer, %(days)s))
       AND NOT EXISTS (SELECT 1 FROM legal_holds WHERE released_at IS NULL
                          AND (scope = 'system' AND target = runs.system OR scope = 'project' AND target = runs.project))
       AND NOT EXISTS (SELECT FROM runs_held WHERE runs_held.id = runs.id)
     ORDER BY finished_at LIMIT %(most)s FOR UPDATE SKIP LOCKED)

-- erase_run --
-- Deletes a run with all it holds and all it had started.
DELETE FROM runs WHERE id = %(id)s

-- old_events --
-- Counts events older than a time; a run that still waits began to wait before, or looks from its own start on.
SELECT count(*) AS events FROM events WHERE at < %(before)s

-- expire_events --
-- Deletes some of them.
DELETE FROM events WHERE id IN (SELECT id FROM events WHERE at < %(before)s LIMIT %(most)s FOR UPDATE SKIP LOCKED)
