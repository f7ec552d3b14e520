-- pin --
-- Keeps a definition for as long as the database lives; the same content is kept once.
INSERT INTO definitions (hash, name, data) VALUES (%(hash)s, %(name)s, %(data)s) ON CONFLICT (hash) DO NOTHING

-- pinned --
-- Gives a pinned definition by its hash.
SELECT data FROM definitions WHERE hash = %(hash)s

-- create --
-- Makes a run, or nothing when the same cause already started one of the project.
INSERT INTO runs (id, workflow, definition, key_id, project, system, rights, dedupe, inputs)
VALUES (%(id)s, %(workflow)s, %(definition)s, %(key_id)s, %(project)s, %(system)s, %(rights)s, %(dedupe)s, %(inputs)s)
ON CONFLICT (project, workflow, dedupe) WHERE dedupe IS NOT NULL DO NOTHING
RETURNING id

-- by_dedupe --
-- Gives the run a cause has started in a project.
SELECT id FROM runs WHERE project = %(project)s AND workflow = %(workflow)s AND dedupe = %(dedupe)s

-- take --
-- Gives the run to a worker: a new epoch, and a strike when nothing was journalled since it was last taken.
UPDATE runs
   SET epoch = epoch + 1, status = 'running', parked_on = NULL, wake_at = NULL, updated_at = now(),
       strikes = CASE WHEN epoch > 0 AND progress = found.lines THEN strikes + 1 ELSE 1 END, progress = found.lines
  FROM (SELECT count(*) AS lines FROM journal WHERE run = %(id)s) found
 WHERE id = %(id)s AND status IN ('pending', 'running', 'waiting')
RETURNING id, workflow, definition, epoch, strikes, key_id, project, system, rights, inputs

-- give_back --
-- Makes a run pending again when its worker stops before it is done; this is no strike.
UPDATE runs SET status = 'pending', strikes = greatest(strikes - 1, 0), updated_at = now()
 WHERE id = %(id)s AND epoch = %(epoch)s AND status = 'running'

-- wait --
-- Puts a run aside until a time.
UPDATE runs SET status = 'waiting', wake_at = %(wake_at)s, updated_at = now(), cost_eur = %(cost_eur)s
 WHERE id = %(id)s AND epoch = %(epoch)s AND status = 'running'
RETURNING pg_notify('metier_runs', json_build_object('run', id, 'status', status)::text) IS NULL AS told

-- park --
-- Puts a run aside until somebody has decided.
UPDATE runs SET status = 'parked', parked_on = %(path)s, updated_at = now(), cost_eur = %(cost_eur)s
 WHERE id = %(id)s AND epoch = %(epoch)s AND status = 'running'
RETURNING pg_notify('metier_runs', json_build_object('run', id, 'status', status)::text) IS NULL AS told

-- finish --
-- Ends a run with its output, its failure, or as one that keeps dying.
UPDATE runs
   SET status = %(status)s::run_status, output = %(output)s, outcome = %(outcome)s, error = %(error)s,
       cost_eur = coalesce(%(cost_eur)s, cost_eur), updated_at = now(), finished_at = now()
 WHERE id = %(id)s AND epoch = %(epoch)s AND status = 'running'
RETURNING pg_notify('metier_runs', json_build_object('run', id, 'status', status)::text) IS NULL AS told

-- lock --
-- Holds the row of a run for the rest of the transaction.
SELECT status, definition, error FROM runs WHERE id = %(id)s FOR UPDATE OF runs

-- revive --
-- Makes a parked, failed or dead run pending again, without strikes.
UPDATE runs
   SET status = 'pending', strikes = 0, epoch = epoch + 1, error = NULL, finished_at = NULL, parked_on = NULL,
       updated_at = now()
 WHERE id = %(id)s
RETURNING pg_notify('metier_runs', json_build_object('run', id, 'status', status)::text) IS NULL AS told

-- cancel --
-- Ends a run that is not over; the new epoch refuses whatever its worker still writes.
UPDATE runs SET status = 'cancelled', epoch = epoch + 1, parked_on = NULL, wake_at = NULL,
                updated_at = now(), finished_at = now()
 WHERE id = %(id)s AND status NOT IN ('done', 'cancelled')
RETURNING pg_notify('metier_runs', json_build_object('run', id, 'status', status)::text) IS NULL AS told

-- get --
-- Gives one run without its contents.
SELECT id, workflow, definition, status, outcome, key_id, project, system, dedupe, parked_on, wake_at, cost_eur, error,
       strikes, created_at, updated_at, finished_at
  FROM runs WHERE id = %(id)s

-- contents --
-- Gives the sealed inputs and output of one run.
SELECT definition, inputs, output FROM runs WHERE id = %(id)s

-- page --
-- Gives one page of runs, newest first, those before a given one.
SELECT id, workflow, definition, status, outcome, key_id, project, system, dedupe, parked_on, wake_at, cost_eur, error,
       strikes, created_at, updated_at, finished_at
  FROM runs
 WHERE (%(workflow)s::text IS NULL OR workflow = %(workflow)s)
   AND (%(project)s::text IS NULL OR project = %(project)s)
   AND (%(status)s::run_status IS NULL OR status = %(status)s)
   AND (%(before)s::text IS NULL OR id < %(before)s)
 ORDER BY id DESC
 LIMIT %(limit)s
