-- seen --
-- Says that a worker is there, and forgets those that were not for long.
WITH gone AS (
    DELETE FROM worker_slots WHERE worker IN (
        SELECT worker FROM worker_slots WHERE seen_at < now() - interval '1 hour' FOR UPDATE SKIP LOCKED)
)
INSERT INTO worker_slots (worker, slots) VALUES (%(worker)s, %(slots)s)
ON CONFLICT (worker) DO UPDATE SET slots = excluded.slots, seen_at = now()

-- left --
-- Forgets a worker that has stopped.
DELETE FROM worker_slots WHERE worker = %(worker)s

-- room --
-- Gives the runs of a project that move or may at once, whether others are in line, and the slots of live workers.
SELECT (SELECT count(*) FROM (
            SELECT 1 FROM runs WHERE project = %(project)s AND status IN ('pending', 'running') LIMIT 1000) few) AS active,
       EXISTS (SELECT 1 FROM runs WHERE project = %(project)s AND status = 'queued' AND place IS NOT NULL
                  AND (opens_at IS NULL OR opens_at <= %(now)s)) AS line,
       (SELECT sum(slots) FROM worker_slots WHERE seen_at > now() - make_interval(secs => %(stall_s)s)) AS slots

-- lines --
-- Gives the projects that have runs in line, those with the fewest under way first.
WITH RECURSIVE lined AS (
    (SELECT project FROM runs WHERE status = 'queued' AND place IS NOT NULL ORDER BY project LIMIT 1)
    UNION ALL
    SELECT (SELECT project FROM runs WHERE status = 'queued' AND place IS NOT NULL AND project > lined.project
             ORDER BY project LIMIT 1)
      FROM lined WHERE lined.project IS NOT NULL
)
SELECT project FROM lined WHERE project IS NOT NULL
 ORDER BY (SELECT count(*) FROM runs WHERE runs.project = lined.project AND status IN ('pending', 'running')), project

-- door --
-- Lets one at a time let runs in: of a project, or of the house where flows are bounded.
SELECT pg_advisory_xact_lock(hashtextextended(%(door)s, 78)) IS NULL AS held

-- project --
-- Gives the name of a project.
SELECT name FROM projects WHERE id = %(project)s

-- let_in_lately --
-- Counts the runs of a project that were let in during the last minute; clocks of machines may be so far apart, and what
-- was let in later than that was by a clock that was wrong.
SELECT count(*) AS started FROM runs
 WHERE admitted_at > %(now)s::timestamptz - interval '1 minute' AND project = %(project)s
   AND admitted_at < %(now)s::timestamptz + interval '1 minute'

-- flows --
-- Gives of each of these flows how many runs are under way, and how many were let in during the last minute.
SELECT flow.name,
       (SELECT count(*) FROM runs WHERE status IN ('pending', 'running') AND split_part(workflow, '/', 1) = flow.name)
           AS active,
       (SELECT count(*) FROM runs WHERE admitted_at > %(now)s::timestamptz - interval '1 minute'
           AND admitted_at < %(now)s::timestamptz + interval '1 minute' AND split_part(workflow, '/', 1) = flow.name) AS started
  FROM unnest(%(flows)s::text[]) AS flow (name)
