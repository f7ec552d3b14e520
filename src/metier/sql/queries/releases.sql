-- named --
-- Gives the name of a project, for errors people read.
SELECT name FROM projects WHERE id = %(project)s;

-- head --
-- Gives the revision of a flow's releases in a project.
SELECT revision FROM release_heads WHERE project = %(project)s AND flow = %(flow)s;

-- open_head --
-- Makes the place of a flow's releases the first time one is made.
INSERT INTO release_heads (project, flow) VALUES (%(project)s, %(flow)s) ON CONFLICT (project, flow) DO NOTHING;

-- lock_head --
-- Holds the releases of a flow for the rest of the transaction.
SELECT revision FROM release_heads WHERE project = %(project)s AND flow = %(flow)s FOR UPDATE;

-- turn --
-- Counts one more change; nothing where somebody else changed them since they were seen.
UPDATE release_heads SET revision = revision + 1
 WHERE project = %(project)s AND flow = %(flow)s AND revision = %(seen)s;

-- create --
-- Keeps a definition as the next version of a flow, or nothing where that content is a version already.
INSERT INTO releases (project, flow, version, definition, data, rules, score, created_by)
SELECT %(project)s, %(flow)s, coalesce(max(version), 0) + 1, %(definition)s, %(data)s, %(rules)s::text[], %(score)s, %(by)s
  FROM releases WHERE project = %(project)s AND flow = %(flow)s
ON CONFLICT (project, flow, definition) DO NOTHING
RETURNING version;

-- move --
-- Puts a version into another state.
UPDATE releases
   SET state = %(state)s, share = %(share)s, pilots = %(pilots)s::text[], before = coalesce(%(before)s::integer, before),
       per = coalesce(%(per)s::text, per),
       released_at = CASE WHEN %(state)s::text IN ('pilot', 'canary', 'all') THEN coalesce(released_at, now()) ELSE released_at END
 WHERE project = %(project)s AND flow = %(flow)s AND version = %(version)s;

-- note --
-- Writes down a change, with its figures where a rule made it.
INSERT INTO release_moves (project, flow, version, before, state, share, by, reason, figures, told_at)
VALUES (%(project)s, %(flow)s, %(version)s, %(was)s, %(state)s, %(share)s, %(by)s, %(reason)s, %(figures)s,
        CASE WHEN %(figures)s::text IS NULL THEN now() END);

-- page --
-- Gives the releases of a project, of one flow or of every one, newest version first.
SELECT r.project, r.flow, r.version, r.definition, r.state, r.share, r.per, r.pilots, r.rules, r.score, r.before,
       r.created_by, r.created_at, r.released_at, h.revision
  FROM releases r JOIN release_heads h ON h.project = r.project AND h.flow = r.flow
 WHERE (%(project)s::text IS NULL OR r.project = %(project)s) AND (%(flow)s::text IS NULL OR r.flow = %(flow)s)
 ORDER BY r.project, r.flow, r.version DESC;

-- data --
-- Gives the definition kept of one version.
SELECT data, state FROM releases WHERE project = %(project)s AND flow = %(flow)s AND version = %(version)s;

-- moves --
-- Gives what was done with the releases of a flow, latest first.
SELECT version, before, state, share, by, reason, figures, at FROM release_moves
 WHERE project = %(project)s AND flow = %(flow)s AND (%(version)s::integer IS NULL OR version = %(version)s)
 ORDER BY id DESC LIMIT 200;

-- untold --
-- Takes what rules did and nobody was told of, each by one worker at a time.
SELECT id, project, flow, version, state, reason, figures, at FROM release_moves
 WHERE told_at IS NULL ORDER BY id LIMIT 20 FOR UPDATE SKIP LOCKED;

-- told --
-- Remembers that somebody was told.
UPDATE release_moves SET told_at = now() WHERE id = %(id)s;

-- figures --
-- Gives the latest runs of a definition that are over, with what they took; the output stays sealed.
SELECT r.id, r.status, r.outcome, r.output, r.cost_eur,
       (SELECT coalesce(sum(j.duration_s), 0) FROM journal j
         WHERE j.run = r.id AND j.name = '' AND j.kind IN ('result', 'error')) AS seconds
  FROM runs r
 WHERE r.project = %(project)s AND r.definition = %(definition)s AND r.status IN ('done', 'failed', 'dead')
   AND (%(since)s::timestamptz IS NULL OR r.created_at >= %(since)s)
 ORDER BY r.id DESC
 LIMIT %(limit)s;
