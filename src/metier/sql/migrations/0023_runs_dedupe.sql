-- A cause has started a run once in each project: projects, and so organisations, share no runs.
DROP INDEX runs_dedupe;
CREATE UNIQUE INDEX runs_dedupe ON runs (project, workflow, dedupe) WHERE dedupe IS NOT NULL;
