-- ready --
-- Counts the segments that could start now.
SELECT count(*) AS ready
  FROM procrastinate_jobs
 WHERE queue_name = %(queue)s AND status = 'todo' AND coalesce(scheduled_at, now()) <= now()

-- held --
-- Gives the segments that workers have, and which of these show no sign of life, as far as the clock of the database
-- says; after a restart of it workers get time to report.
SELECT job.id, job.queueing_lock AS run, worker.id AS worker,
       extract(epoch FROM worker.last_heartbeat)::float8 AS beat,
       coalesce(worker.last_heartbeat, '-infinity') < now() - make_interval(secs => %(stall_s)s)
       AND pg_postmaster_start_time() < now() - make_interval(secs => %(stall_s)s) AS stale
  FROM procrastinate_jobs job LEFT JOIN procrastinate_workers worker ON worker.id = job.worker_id
 WHERE job.queue_name = %(queue)s AND job.status = 'doing'

-- beat --
-- Says that a worker lives.
SELECT procrastinate_update_heartbeat_v1(%(worker)s)

-- forget --
-- Takes away the registrations of workers that are silent for long and have nothing; one that has something may be
-- alive all the same, and its segments be told from those of the dead by it alone.
DELETE FROM procrastinate_workers worker
 WHERE last_heartbeat < now() - make_interval(secs => %(silent_s)s)
   AND NOT EXISTS (SELECT 1 FROM procrastinate_jobs job WHERE job.worker_id = worker.id AND job.status = 'doing')
RETURNING worker.id

-- unfetched --
-- Gives the segments that a worker has, as far as the database knows, and of which it does not know itself.
SELECT job.id, job.queueing_lock AS run
  FROM procrastinate_jobs job
 WHERE job.queue_name = %(queue)s AND job.status = 'doing' AND job.worker_id = %(worker)s
   AND job.id <> ALL(%(known)s::bigint[])

-- hold_run --
-- Holds the row of a run for the rest of the transaction.
SELECT id FROM runs WHERE id = %(run)s FOR UPDATE OF runs

-- hold_batch --
-- Holds the row of a batch for the rest of the transaction.
SELECT id FROM batches WHERE id = %(run)s FOR UPDATE OF batches

-- under_way --
-- Says whether a segment of a run waits or is with a worker.
SELECT 1 AS found
  FROM procrastinate_jobs
 WHERE queueing_lock = %(run)s AND queue_name = %(queue)s AND status IN ('todo', 'doing')
 LIMIT 1

-- drop --
-- Takes away a stalled segment; nothing is touched when it ended in the meantime, or another worker is at it.
WITH held AS MATERIALIZED (
    SELECT id FROM procrastinate_jobs WHERE id = %(id)s AND status = 'doing' FOR UPDATE SKIP LOCKED
)
SELECT procrastinate_finish_job_v1(id, 'failed', true) FROM held

-- abort --
-- Asks the worker that holds a run to stop its segment, and takes away the one that waits.
SELECT procrastinate_cancel_job_v1(id, true, true)
  FROM procrastinate_jobs WHERE queueing_lock = %(run)s AND queue_name = %(queue)s AND status IN ('todo', 'doing')

-- idle_runs --
-- Gives the runs that should move and for which nothing is deferred: their segment ended without a word.
SELECT run.id
  FROM runs run
 WHERE (run.status IN ('pending', 'running') OR run.status = 'waiting' AND run.wake_at IS NOT NULL)
   AND NOT EXISTS (SELECT 1 FROM procrastinate_jobs job WHERE job.queueing_lock = run.id AND job.status IN ('todo', 'doing'))
 ORDER BY run.id
 LIMIT 1000

-- still_idle --
-- Says whether nothing is deferred for a run that should move; its row is held, so that this stays so.
SELECT 1 AS idle
  FROM runs run
 WHERE run.id = %(run)s
   AND (run.status IN ('pending', 'running') OR run.status = 'waiting' AND run.wake_at IS NOT NULL)
   AND NOT EXISTS (SELECT 1 FROM procrastinate_jobs job WHERE job.queueing_lock = run.id AND job.status IN ('todo', 'doing'))

-- hasten --
-- Takes away the segment of a run that is due later.
SELECT procrastinate_cancel_job_v1(id, false, true)
  FROM procrastinate_jobs
 WHERE queueing_lock = %(run)s AND queue_name = %(queue)s AND status = 'todo' AND scheduled_at > now()

-- rank --
-- Gives the priority of one more segment: the more runs of its project are under way, the later it comes.
SELECT -count(*) AS rank FROM (
    SELECT 1 FROM runs
     WHERE project = (SELECT mine.project FROM runs mine WHERE mine.id = %(run)s) AND status IN ('pending', 'running')
     LIMIT 100) few

-- rerank --
-- Moves forward the first segments of each project where those behind which they came are done.
WITH line AS (
    SELECT job.id, row_number() OVER (PARTITION BY run.project ORDER BY job.id) AS place
      FROM procrastinate_jobs job JOIN runs run ON run.id = job.queueing_lock
     WHERE job.queue_name = %(queue)s AND job.status = 'todo' AND coalesce(job.scheduled_at, now()) <= now()
), behind AS (
    SELECT job.id, line.place FROM procrastinate_jobs job JOIN line ON line.id = job.id
     WHERE line.place <= 50 AND job.priority < -line.place AND job.status = 'todo'
     FOR UPDATE OF job SKIP LOCKED
)
UPDATE procrastinate_jobs SET priority = -behind.place FROM behind WHERE procrastinate_jobs.id = behind.id
