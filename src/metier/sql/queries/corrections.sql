-- add --
-- Keeps what became of a draft, with whom the calls of its run served.
INSERT INTO corrections (id, task, run, organisation, project, workflow, definition, path, prompt, contents, people,
                         by_name, by_id, made_at, expires_at)
SELECT %(id)s, %(task)s, %(run)s,
       coalesce((SELECT organisation FROM projects WHERE projects.id = %(project)s), 'main'),
       %(project)s, %(workflow)s, %(definition)s, %(path)s, %(prompt)s, %(contents)s,
       coalesce((SELECT array_agg(DISTINCT end_user) FROM calls WHERE calls.run = %(run)s AND end_user IS NOT NULL),
                '{}'),
       %(by)s, %(by_id)s, %(made_at)s, %(expires_at)s
ON CONFLICT (task) DO NOTHING

-- page --
-- Gives corrections, oldest first, after a given one.
SELECT * FROM corrections
 WHERE (%(workflow)s::text IS NULL OR workflow = %(workflow)s)
   AND (%(after)s::text IS NULL OR id > %(after)s)
   AND (%(project)s::text IS NULL OR project = %(project)s)
 ORDER BY id LIMIT %(limit)s

-- get --
-- Gives one correction, of a project where one is named.
SELECT * FROM corrections WHERE id = %(id)s AND (%(project)s::text IS NULL OR project = %(project)s)

-- purge --
-- Deletes the corrections whose time is over.
DELETE FROM corrections WHERE expires_at <= %(now)s

-- reached --
-- Counts the corrections an erasure reaches.
SELECT count(*) AS found FROM corrections
 WHERE organisation = %(organisation)s
   AND ((%(person)s::text IS NOT NULL AND (%(person)s = ANY(people) OR run IN (
            SELECT run FROM calls WHERE calls.end_user = %(person)s AND calls.organisation = %(organisation)s)))
     OR (%(project)s::text IS NOT NULL AND project = %(project)s AND people = '{}')
     OR (%(call)s::text IS NOT NULL AND run = (SELECT run FROM calls WHERE id = %(call)s)))

-- erase --
-- Deletes the corrections an erasure reaches.
DELETE FROM corrections
 WHERE organisation = %(organisation)s
   AND ((%(person)s::text IS NOT NULL AND (%(person)s = ANY(people) OR run IN (
            SELECT run FROM calls WHERE calls.end_user = %(person)s AND calls.organisation = %(organisation)s)))
     OR (%(project)s::text IS NOT NULL AND project = %(project)s AND people = '{}')
     OR (%(call)s::text IS NOT NULL AND run = (SELECT run FROM calls WHERE id = %(call)s)))
