-- create --
-- Makes a batch of a file that is there and stays there meanwhile, within what a project may have open.
WITH source AS MATERIALIZED (
    SELECT id FROM files
     WHERE id = %(input_file)s AND project = %(project)s AND stored AND expires_at > %(now)s FOR SHARE
)
INSERT INTO batches (id, project, key_id, endpoint, input_file, quiet_hours, metadata, keep_s, created_at, expires_at)
SELECT %(id)s, %(project)s, %(key_id)s, %(endpoint)s, source.id, %(quiet_hours)s, %(metadata)s, %(keep_s)s, %(now)s,
       %(expires_at)s
  FROM source
RETURNING id

-- open --
-- Counts the batches of a project that are not over.
SELECT count(*) AS batches FROM batches
 WHERE project = %(project)s AND status IN ('validating', 'in_progress', 'finalizing', 'cancelling')

-- get --
-- Gives a batch as people look at it.
SELECT * FROM batches_seen WHERE id = %(id)s AND (%(project)s::text IS NULL OR project = %(project)s)

-- page --
-- Gives one page of batches as people look at them, newest first.
SELECT * FROM batches_seen
 WHERE (%(project)s::text IS NULL OR project = %(project)s) AND (%(after)s::text IS NULL OR id < %(after)s)
 ORDER BY id DESC LIMIT %(limit)s

-- totals --
-- Sums what the recorded calls of some batches took, tries that gave no answer included.
SELECT run AS batch, count(*) AS calls, sum(input_tokens)::bigint AS input_tokens,
       sum(output_tokens)::bigint AS output_tokens, sum(cached_tokens)::bigint AS cached_tokens, sum(cost_eur) AS cost_eur, sum(energy_low_kwh) AS energy_low_kwh,
       sum(energy_high_kwh) AS energy_high_kwh, sum(carbon_low_g) AS carbon_low_g, sum(carbon_high_g) AS carbon_high_g
  FROM calls WHERE run = ANY(%(ids)s) GROUP BY run

-- cancel --
-- Asks a batch to end; calls under way are waited for.
UPDATE batches SET status = 'cancelling', cancelling_at = %(now)s, paused = NULL, resume_at = NULL
 WHERE id = %(id)s AND status IN ('validating', 'in_progress')

-- withdraw --
-- Takes away the turn of a batch that waits for its time.
SELECT procrastinate_cancel_job_v1(id, false, true)
  FROM procrastinate_jobs WHERE queueing_lock = %(id)s AND status = 'todo'

-- held --
-- Says whether a worker is at a batch.
SELECT 1 FROM procrastinate_jobs WHERE queueing_lock = %(id)s AND status = 'doing' LIMIT 1

-- idle --
-- Gives the batches that should move and for which nothing is due: their turn ended without a word.
SELECT id FROM batches batch
 WHERE (%(id)s::text IS NULL OR id = %(id)s) AND status IN ('validating', 'in_progress', 'finalizing', 'cancelling')
   AND NOT EXISTS (SELECT 1 FROM procrastinate_jobs
                    WHERE queueing_lock = batch.id AND status IN ('todo', 'doing'))
 ORDER BY id LIMIT 1000

-- take --
-- Gives a batch to a worker under a new epoch, unless another living one has it.
UPDATE batches SET epoch = epoch + 1, under_way = 0, paused = NULL, resume_at = NULL
 WHERE id = %(id)s AND status IN ('validating', 'in_progress', 'finalizing', 'cancelling')
   AND (SELECT count(*) FROM procrastinate_jobs WHERE queueing_lock = %(id)s AND status = 'doing') <= 1
RETURNING id, project, key_id, endpoint, input_file, status, epoch, quiet_hours, keep_s, stalls, ending, expires_at,
          coalesce((SELECT organisation FROM projects WHERE projects.id = batches.project), 'main') AS organisation

-- reopen --
-- Makes the lines of a worker that died callable again.
UPDATE batch_lines SET state = 'todo' WHERE batch = %(id)s AND state = 'begun'

-- clear --
-- Forgets the lines of a file that was read in part, or of a batch that is over.
DELETE FROM batch_lines WHERE batch = %(id)s

-- note --
-- Keeps checked lines for the worker that holds the batch.
WITH held AS MATERIALIZED (
    SELECT id FROM batches WHERE id = %(id)s AND epoch = %(epoch)s AND status = 'validating' FOR SHARE
)
INSERT INTO batch_lines (batch, number, start, size, name, state, answer)
SELECT held.id, line.number, line.start, line.size, line.name, line.state::batch_line_state, line.answer
  FROM held, unnest(%(numbers)s::integer[], %(starts)s::bigint[], %(sizes)s::integer[], %(names)s::bytea[],
                    %(states)s::text[], %(answers)s::bytea[]) AS line (number, start, size, name, state, answer)

-- begin --
-- Lets the calls of a batch be made, once every line is known.
UPDATE batches SET status = 'in_progress', in_progress_at = %(now)s
 WHERE id = %(id)s AND epoch = %(epoch)s AND status = 'validating'

-- lock_project --
-- Lets one line of a project be taken at a time, until the transaction ends.
SELECT pg_advisory_xact_lock(hashtextextended(%(project)s, 7019002)) IS NULL AS locked

-- claim --
-- Gives the next line that was not given back yet, where the project has a place left.
WITH busy AS (
    SELECT coalesce(sum(under_way), 0) AS calls FROM batches
     WHERE project = %(project)s AND status IN ('in_progress', 'cancelling')
), next AS MATERIALIZED (
    SELECT number FROM batch_lines
     WHERE batch = %(id)s AND number > %(after)s AND tries = 0 AND state = 'todo'
     ORDER BY number LIMIT 1
), held AS (
    UPDATE batches SET under_way = under_way + 1 FROM busy, next
     WHERE id = %(id)s AND epoch = %(epoch)s AND status = 'in_progress' AND busy.calls < %(most)s
    RETURNING id
)
UPDATE batch_lines line SET state = 'begun', begun = begun + 1
  FROM held, next WHERE line.batch = held.id AND line.number = next.number
RETURNING line.number, line.start, line.size, line.name, line.begun, line.tries, line.outages

-- claim_again --
-- Gives a line that was given back, those given back less first, where the project has a place left.
WITH busy AS (
    SELECT coalesce(sum(under_way), 0) AS calls FROM batches
     WHERE project = %(project)s AND status IN ('in_progress', 'cancelling')
), next AS MATERIALIZED (
    SELECT number FROM batch_lines
     WHERE batch = %(id)s AND tries > 0 AND state = 'todo'
     ORDER BY tries, number LIMIT 1
), held AS (
    UPDATE batches SET under_way = under_way + 1 FROM busy, next
     WHERE id = %(id)s AND epoch = %(epoch)s AND status = 'in_progress' AND busy.calls < %(most)s
    RETURNING id
)
UPDATE batch_lines line SET state = 'begun', begun = begun + 1
  FROM held, next WHERE line.batch = held.id AND line.number = next.number
RETURNING line.number, line.start, line.size, line.name, line.begun, line.tries, line.outages

-- standing --
-- Says how a batch stands for the worker that holds it.
SELECT status, ending, (SELECT count(*) FROM batch_lines WHERE batch = %(id)s AND state = 'todo') AS todo
  FROM batches WHERE id = %(id)s AND epoch = %(epoch)s

-- keep --
-- Keeps the answer or the error of a line, once; the same write repeated after a lost connection changes nothing.
WITH found AS (
    SELECT state FROM batch_lines WHERE batch = %(id)s AND number = %(number)s
), held AS (
    UPDATE batches SET under_way = greatest(under_way - CASE WHEN found.state = 'begun' THEN 1 ELSE 0 END, 0)
      FROM found WHERE id = %(id)s AND epoch = %(epoch)s AND status IN ('in_progress', 'cancelling')
    RETURNING id
)
UPDATE batch_lines line SET state = %(state)s::batch_line_state, answer = coalesce(line.answer, %(answer)s)
  FROM held
 WHERE line.batch = held.id AND line.number = %(number)s AND line.state IN ('begun', %(state)s::batch_line_state)

-- release --
-- Gives a line back that nobody was paid for, or that nobody answered.
WITH found AS (
    SELECT 1 FROM batch_lines WHERE batch = %(id)s AND number = %(number)s AND state = 'begun'
), held AS (
    UPDATE batches SET under_way = greatest(under_way - 1, 0)
      FROM found WHERE id = %(id)s AND epoch = %(epoch)s
    RETURNING id
)
UPDATE batch_lines line
   SET state = 'todo', begun = 0, tries = tries + 1, outages = outages + %(outage)s
  FROM held WHERE line.batch = held.id AND line.number = %(number)s AND line.state = 'begun'

-- flow --
-- Says that calls are answered again.
UPDATE batches SET stalls = 0 WHERE id = %(id)s AND epoch = %(epoch)s

-- pause --
-- Puts a batch aside until a time.
UPDATE batches SET paused = %(why)s, resume_at = %(at)s, stalls = %(stalls)s
 WHERE id = %(id)s AND epoch = %(epoch)s AND status = 'in_progress'

-- close --
-- Says how a batch ends; from then on no call is made.
UPDATE batches
   SET status = CASE WHEN status = 'cancelling' THEN status ELSE 'finalizing' END, finalizing_at = %(now)s,
       ending = CASE WHEN status = 'cancelling' AND %(ending)s <> 'failed' THEN 'cancelled'
                     ELSE %(ending)s::batch_status END,
       errors = %(errors)s
 WHERE id = %(id)s AND epoch = %(epoch)s AND status IN ('validating', 'in_progress', 'cancelling')

-- results --
-- Gives one page of the lines of a batch in the order of its file.
SELECT number, state, name, answer FROM batch_lines
 WHERE batch = %(id)s AND number > %(after)s ORDER BY number LIMIT 200

-- finish --
-- Ends a batch with its files.
UPDATE batches
   SET status = ending, output_file = %(output_file)s, error_file = %(error_file)s, total = %(total)s, done = %(done)s,
       failed = %(failed)s, ended_at = %(now)s, paused = NULL, resume_at = NULL, stalls = 0
 WHERE id = %(id)s AND epoch = %(epoch)s AND status IN ('finalizing', 'cancelling') AND ending IS NOT NULL
