-- append --
-- Writes lines of a run for the worker that holds it, tells followers, and gives one row per line written.
WITH held AS MATERIALIZED (
    SELECT id FROM runs WHERE id = %(run)s AND epoch = %(epoch)s AND status = 'running' FOR SHARE
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
RETURNING pg_notify('metier_runs', json_build_object(
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

-- keep_blob --
-- Keeps a large value once, under the keyed digest of its content.
INSERT INTO blobs (digest, sealed, size) VALUES (%(digest)s, %(sealed)s, %(size)s) ON CONFLICT (digest) DO NOTHING

-- of_run --
-- Gives every line of a run in the order it was written, with its blob where it has one.
SELECT j.path, j.attempt, j.name, j.kind, j.value, j.blob, b.sealed, j.cost_eur, j.calls, j.started_at, j.duration_s
  FROM journal j LEFT JOIN blobs b ON b.digest = j.blob
 WHERE j.run = %(run)s AND (%(after)s::bigint IS NULL OR j.signal > %(after)s)
 ORDER BY j.seq
