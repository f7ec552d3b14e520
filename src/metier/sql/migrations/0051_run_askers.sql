-- Who asked for a run that works under the key its trigger was deployed with: they do not decide it either.
CREATE TABLE run_askers (
    project text NOT NULL,
    workflow text NOT NULL,
    dedupe text NOT NULL,                        -- what started the run; written down before it is there
    name text NOT NULL,
    key_id text NOT NULL,
    at timestamptz NOT NULL,
    PRIMARY KEY (project, workflow, dedupe, key_id)
);

-- Names and keys of those who asked for a run, for one it belongs to, or for one it goes on from; names first.
CREATE FUNCTION askers_of(run text) RETURNS text[] LANGUAGE sql STABLE AS $$
WITH RECURSIVE line AS (
    SELECT id, parent, forked_from, project, workflow, dedupe FROM runs WHERE id = $1
    UNION
    SELECT above.id, above.parent, above.forked_from, above.project, above.workflow, above.dedupe
      FROM line JOIN runs above ON above.id IN (line.parent, line.forked_from)
)
SELECT coalesce(array_agg(asked.name) || array_agg(asked.key_id), '{}')
  FROM line JOIN run_askers asked USING (project, workflow, dedupe)
$$;
