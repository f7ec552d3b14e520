-- put_flow --
-- Keeps which definition of a flow is started, and in whose name.
INSERT INTO trigger_flows (project, flow, key_id, definition, data, deployed_by, deployed_at)
VALUES (%(project)s, %(flow)s, %(key_id)s, %(definition)s, %(data)s, %(by)s, %(now)s)
ON CONFLICT (project, flow) DO UPDATE
   SET key_id = excluded.key_id, definition = excluded.definition, data = excluded.data,
       deployed_by = excluded.deployed_by, deployed_at = excluded.deployed_at

-- put --
-- Makes a trigger, or gives the one that is alike what is written now.
INSERT INTO triggers (id, project, flow, kind, likeness, spec, made_at)
VALUES (%(id)s, %(project)s, %(flow)s, %(kind)s, %(likeness)s, %(spec)s::jsonb, %(now)s)
ON CONFLICT (project, flow, likeness) DO UPDATE
   SET spec = excluded.spec, revision = triggers.revision + 1, failures = 0, error = NULL, retry_at = NULL
RETURNING id

-- drop_others --
-- Takes away the triggers a flow no longer has.
DELETE FROM triggers WHERE project = %(project)s AND flow = %(flow)s AND likeness <> ALL (%(likenesses)s)

-- remove_flow --
-- Takes a flow and its triggers away; its runs stay.
DELETE FROM trigger_flows WHERE project = %(project)s AND flow = %(flow)s

-- list --
-- Gives triggers as people look at them, of one project or of all.
SELECT t.id, t.project, t.flow, t.kind, t.spec, t.enabled, t.revision, t.state, t.holder, t.epoch, t.failures, t.error,
       t.retry_at, t.taken, t.last_at, t.made_at, f.key_id, f.definition, coalesce(p.organisation, 'main') AS organisation,
       coalesce(t.held_until > now(), false) AS held,
       (SELECT count(*) FROM trigger_letters l WHERE l.trigger = t.id) AS letters
  FROM triggers t JOIN trigger_flows f USING (project, flow) LEFT JOIN projects p ON p.id = t.project
 WHERE (%(project)s::text IS NULL OR t.project = %(project)s)
   AND (%(flow)s::text IS NULL OR t.flow = %(flow)s)
   AND (%(kind)s::text IS NULL OR t.kind = %(kind)s)
   AND (%(id)s::text IS NULL OR t.id = %(id)s)
 ORDER BY t.project, t.flow, t.kind, t.id

-- data --
-- Gives the definition a flow is started with.
SELECT data FROM trigger_flows WHERE project = %(project)s AND flow = %(flow)s AND definition = %(definition)s

-- enable --
-- Pauses a trigger or lets it go on.
UPDATE triggers SET enabled = %(enabled)s, revision = revision + 1, failures = 0, error = NULL, retry_at = NULL
 WHERE id = %(id)s

-- claim --
-- Gives free triggers of some kinds to a process, for a while.
UPDATE triggers
   SET holder = %(holder)s, held_until = now() + make_interval(secs => %(lease_s)s), epoch = epoch + 1
 WHERE id IN (SELECT id FROM triggers
               WHERE enabled AND kind = ANY (%(kinds)s)
                 AND (held_until IS NULL OR held_until < now()) AND (retry_at IS NULL OR retry_at <= now())
               ORDER BY id LIMIT %(limit)s FOR UPDATE SKIP LOCKED)
RETURNING id, epoch, revision

-- renew --
-- Lengthens the leases of a process; those it does not get back are lost, paused or deployed anew.
UPDATE triggers SET held_until = now() + make_interval(secs => %(lease_s)s)
  FROM (SELECT unnest(%(ids)s::text[]) AS id, unnest(%(epochs)s::bigint[]) AS epoch,
               unnest(%(revisions)s::int[]) AS revision) held
 WHERE triggers.id = held.id AND triggers.epoch = held.epoch AND triggers.revision = held.revision AND enabled
RETURNING triggers.id

-- release --
-- Gives a trigger back, with what its source failed by if it did.
UPDATE triggers
   SET holder = NULL, held_until = NULL, error = coalesce(%(error)s, error),
       failures = CASE WHEN %(error)s::text IS NULL THEN failures ELSE failures + 1 END,
       retry_at = CASE WHEN %(error)s::text IS NULL THEN retry_at
                       ELSE now() + make_interval(secs => least(%(first_s)s * 2 ^ least(failures, 12), %(most_s)s)) END
 WHERE id = %(id)s AND epoch = %(epoch)s

-- well --
-- Notes that the source of a trigger works again.
UPDATE triggers SET error = NULL, failures = 0, retry_at = NULL WHERE id = %(id)s AND epoch = %(epoch)s

-- advance --
-- Keeps how far a source has come, unless another process holds the trigger now.
UPDATE triggers SET state = %(state)s::jsonb WHERE id = %(id)s AND epoch = %(epoch)s

-- known --
-- Gives what became of an event.
SELECT outcome, run, content FROM trigger_events WHERE trigger = %(trigger)s AND event = %(event)s

-- note --
-- Records what became of an event, once.
INSERT INTO trigger_events (trigger, event, outcome, run, content, at)
VALUES (%(trigger)s, %(event)s, %(outcome)s, %(run)s, %(content)s, %(now)s)
ON CONFLICT (trigger, event) DO NOTHING

-- count --
-- Counts an event of a trigger.
UPDATE triggers SET taken = taken + 1, last_at = %(now)s WHERE id = %(trigger)s

-- keep_letter --
-- Keeps an event that became no run.
INSERT INTO trigger_letters (id, trigger, event, data, error, at)
VALUES (%(id)s, %(trigger)s, %(event)s, %(data)s, %(error)s, %(now)s)

-- letters --
-- Gives dead letters, oldest first.
SELECT l.id, l.trigger, l.event, l.data, l.error, l.tries, l.at, t.project, t.flow, t.kind
  FROM trigger_letters l JOIN triggers t ON t.id = l.trigger
 WHERE (%(id)s::text IS NULL OR l.id = %(id)s) AND (%(project)s::text IS NULL OR t.project = %(project)s)
 ORDER BY l.id
 LIMIT %(limit)s

-- tried --
-- Notes that a dead letter was tried again in vain.
UPDATE trigger_letters SET tries = tries + 1, error = %(error)s WHERE id = %(id)s

-- drop_letter --
-- Takes a dead letter away.
DELETE FROM trigger_letters WHERE id = %(id)s

-- mend --
-- Records what became of an event that had failed.
UPDATE trigger_events SET outcome = %(outcome)s, run = %(run)s WHERE trigger = %(trigger)s AND event = %(event)s

-- forget --
-- Deletes what is known of events so old that no source brings them again.
DELETE FROM trigger_events WHERE at < now() - make_interval(days => %(days)s)

-- emitted --
-- Gives what flows of a project emitted under one name, from a time on.
SELECT id, key, data, at FROM events
 WHERE project = %(project)s AND event = %(event)s AND (at, id) > (%(at)s, %(id)s)
 ORDER BY at, id
 LIMIT %(limit)s

-- asked --
-- Writes down who asks for a run, before it is started.
INSERT INTO run_askers (project, workflow, dedupe, name, key_id, at)
VALUES (%(project)s, %(workflow)s, %(dedupe)s, %(name)s, %(key_id)s, %(now)s)
ON CONFLICT DO NOTHING

-- forget_askers --
-- Deletes who asked for runs that are there no more, or never came to be.
DELETE FROM run_askers WHERE at < now() - interval '1 day' AND NOT EXISTS (
    SELECT FROM runs WHERE runs.project = run_askers.project AND runs.workflow = run_askers.workflow
                       AND runs.dedupe = run_askers.dedupe)
