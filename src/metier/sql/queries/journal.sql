-- append --
-- Writes lines of a run for the worker that holds it, tells followers, and gives one row per line written.
WITH held AS MATERIALIZED (
    SELECT id, paused_at IS NOT NULL AS pausing FROM runs
     WHERE id = %(run)s AND epoch = %(epoch)s AND status = 'running' FOR SHARE
)
INSERT INTO journal AS j (run, path, attempt, name, kind, epoch, value, blob, cost_eur, calls, started_at, duration_s)
SELECT held.id, line.path, line.attempt, line.name, line.kind::journal_kind, %(epoch)s,
       line.value, line.blob, line.cost_eur, line.calls, line.started_at, line.duration_s
  FROM held,
       unnest(%(paths)s::text[], %(attempts)s::integer[], %(names)s::text[], %(kinds)s::text[], %(values)s::bytea[],
              %(blobs)s::bytea[], %(costs)s::numeric[], %(calls)s::integer[], %(started)s::timestamptz[],
              %(durations)s::double precision[])
       AS line (path, attempt, name, kind, value, blob, cost_eur, calls, started_at, duration_s)
-- The same line twice under one epoch is a write repeated after a lost connection; under another it is refused.
ON CONFLICT (run, path, attempt, name) DO UPDATE SET epoch = j.epoch WHERE j.epoch = excluded.epoch
RETURNING (SELECT pausing FROM held) AS pausing, pg_notify('metier_runs', json_build_object(
    'run', j.run, 'path', j.path, 'attempt', j.attempt, 'name', j.name, 'kind', j.kind)::text) IS NULL AS told

-- held --
-- Says whether a worker holds a run still.
SELECT 1 AS held FROM runs WHERE id = %(run)s AND epoch = %(epoch)s AND status = 'running'

-- append_one --
-- Writes one line of a run, as "append" does.
WITH held AS MATERIALIZED (
    SELECT id, paused_at IS NOT NULL AS pausing FROM runs
     WHERE id = %(run)s AND epoch = %(epoch)s AND status = 'running' FOR SHARE
)
INSERT INTO journal AS j (run, path, attempt, name, kind, epoch, value, blob, cost_eur, calls, started_at, duration_s)
SELECT held.id, %(paths)s, %(attempts)s, %(names)s, %(kinds)s::journal_kind, %(epoch)s, %(values)s, %(blobs)s,
       %(costs)s, %(calls)s, %(started)s, %(durations)s
  FROM held
ON CONFLICT (run, path, attempt, name) DO UPDATE SET epoch = j.epoch WHERE j.epoch = excluded.epoch
RETURNING (SELECT pausing FROM held) AS pausing, pg_notify('metier_runs', json_build_object(
    'run', j.run, 'path', j.path, 'attempt', j.attempt, 'name', j.name, 'kind', j.kind)::text) IS NULL AS told

-- tell --
-- Writes what came from outside its worker, with the count of signals it came with; replaces only an earlier decision.
INSERT INTO journal AS j (run, path, attempt, name, kind, epoch, value, blob, cost_eur, calls, started_at, signal)
SELECT id, %(path)s, %(attempt)s, %(name)s, %(kind)s::journal_kind, -1, %(value)s, %(blob)s, %(cost_eur)s, %(calls)s,
       now(), signals
  FROM runs WHERE id = %(run)s
ON CONFLICT (run, path, attempt, name) DO UPDATE
   SET value = excluded.value, blob = excluded.blob, started_at = excluded.started_at, signal = excluded.signal
 WHERE j.kind = 'decision' AND %(replace)s
RETURNING pg_notify('metier_runs', json_build_object(
    'run', j.run, 'path', j.path, 'attempt', j.attempt, 'name', j.name, 'kind', j.kind)::text) IS NULL AS told

-- rights --
-- Gives the sealed rights of a run, which say whose it is.
SELECT rights FROM runs WHERE id = %(run)s

-- keep_blob --
-- Keeps a large value once, under the keyed digest of its content; one that is used again is no longer old.
INSERT INTO blobs (digest, sealed, size) VALUES (%(digest)s, %(sealed)s, %(size)s)
ON CONFLICT (digest) DO UPDATE SET created_at = now()

-- of_run --
-- Gives every line of a run in the order it was written, with its blob where it has one.
SELECT j.path, j.attempt, j.name, j.kind, j.value, j.blob, b.sealed, j.cost_eur, j.calls, j.started_at, j.duration_s
  FROM journal j LEFT JOIN blobs b ON b.digest = j.blob
 WHERE j.run = %(run)s AND (%(after)s::bigint IS NULL OR j.signal > %(after)s)
 ORDER BY j.seq

-- set_aside --
-- Moves lines out of the journal of a run, to where people still see them.
WITH gone AS (
    DELETE FROM journal USING unnest(%(paths)s::text[], %(attempts)s::integer[], %(names)s::text[])
                                  AS line (path, attempt, name)
     WHERE journal.run = %(run)s AND journal.path = line.path AND journal.attempt = line.attempt
       AND journal.name = line.name
    RETURNING journal.*
)
INSERT INTO journal_aside (run, cut, path, attempt, name, seq, kind, value, blob, cost_eur, calls, started_at,
                           duration_s)
SELECT run, %(cut)s, path, attempt, name, seq, kind, value, blob, cost_eur, calls, started_at, duration_s FROM gone

-- cuts --
-- Counts how often lines of a run were set aside.
SELECT coalesce(max(cut), 0) AS cuts FROM journal_aside WHERE run = %(run)s

-- aside --
-- Gives the lines of a run that were set aside, in the order they were written.
SELECT j.cut, j.path, j.attempt, j.name, j.kind, j.value, j.blob, b.sealed, j.cost_eur, j.calls, j.started_at,
       j.duration_s
  FROM journal_aside j LEFT JOIN blobs b ON b.digest = j.blob
 WHERE j.run = %(run)s
 ORDER BY j.cut, j.seq

-- graft --
-- Writes a line of another run as one of a run that has not begun.
INSERT INTO journal (run, path, attempt, name, kind, epoch, value, blob, cost_eur, calls, started_at, duration_s)
VALUES (%(run)s, %(path)s, %(attempt)s, %(name)s, %(kind)s, 0, %(value)s, %(blob)s, 0, 0, %(started_at)s,
        %(duration_s)s)

-- drop_blobs --
-- Deletes large values that nothing names any more; those used again in the meantime stay.
DELETE FROM blobs WHERE digest IN (
    SELECT digest FROM blobs
     WHERE created_at < %(before)s
       AND NOT EXISTS (SELECT 1 FROM journal WHERE journal.blob = blobs.digest)
       AND NOT EXISTS (SELECT 1 FROM journal_aside WHERE journal_aside.blob = blobs.digest)
       AND NOT EXISTS (SELECT 1 FROM runs WHERE runs.around = blobs.digest)
     LIMIT %(most)s FOR UPDATE SKIP LOCKED)
