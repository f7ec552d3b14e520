-- alone --
-- Lets one worker at a time put events into letters, until its transaction ends.
SELECT pg_advisory_xact_lock(hashtext('task_notices')) IS NULL AS alone

-- fresh --
-- Gives events of which nobody has looked yet who should hear, with their tasks, oldest first.
SELECT tasks.*, task_events.id AS event, task_events.kind, task_events.at, task_events.by_name,
       runs.key_id AS starter_id, keys.name AS starter, askers_of(tasks.run) AS askers,
       coalesce(projects.organisation, 'main') AS organisation
  FROM task_notices JOIN task_events ON task_events.id = task_notices.event JOIN tasks ON tasks.id = task_events.task
       JOIN runs ON runs.id = tasks.run LEFT JOIN keys ON keys.id = runs.key_id
       LEFT JOIN projects ON projects.id = tasks.project
 WHERE task_notices.recipient = '' AND task_notices.sent_at IS NULL AND task_notices.error IS NULL
 ORDER BY task_notices.event
 LIMIT %(limit)s

-- address --
-- Puts down who hears of an event, and that it was looked at.
WITH looked AS (DELETE FROM task_notices WHERE event = %(event)s AND recipient = '')
INSERT INTO task_notices (event, recipient) SELECT %(event)s, unnest(%(people)s::text[]) ON CONFLICT DO NOTHING

-- waiting --
-- Gives, by person, the events that are in no letter yet, with how many letters they were sent lately.
SELECT recipient, array_agg(event ORDER BY event) AS events,
       (SELECT count(DISTINCT lately.letter) FROM task_notices AS lately
         WHERE lately.recipient = waiting.recipient AND lately.planned_at > %(since)s) AS letters,
       EXISTS (SELECT FROM task_notices AS lately
         WHERE lately.recipient = waiting.recipient AND lately.planned_at > %(since)s AND lately.digest) AS digest
  FROM task_notices AS waiting
 WHERE recipient <> '' AND letter IS NULL AND sent_at IS NULL AND error IS NULL
 GROUP BY recipient ORDER BY recipient

-- plan --
-- Puts events into a letter.
UPDATE task_notices SET letter = %(letter)s, digest = %(digest)s, planned_at = %(now)s
 WHERE recipient = %(recipient)s AND event = ANY(%(events)s) AND letter IS NULL

-- take --
-- Takes letters that are due for a while, so that no other worker sends them meanwhile; their first events stand for them.
WITH due AS (
SELECT letter, recipient FROM task_notices
 WHERE letter = 'notice/' || event || '/' || recipient AND sent_at IS NULL AND error IS NULL AND (next_at IS NULL OR next_at <= %(now)s)
 ORDER BY planned_at, letter LIMIT %(limit)s FOR UPDATE SKIP LOCKED)
UPDATE task_notices SET next_at = %(until)s, tries = task_notices.tries + 1
  FROM due
 WHERE task_notices.letter = due.letter AND task_notices.recipient = due.recipient AND task_notices.sent_at IS NULL
RETURNING task_notices.letter, task_notices.recipient, task_notices.event, task_notices.tries, task_notices.planned_at

-- told --
-- Gives what stands in a letter, in the order in which it happened.
SELECT task_events.kind, task_events.by_name, task_events.task
  FROM task_notices JOIN task_events ON task_events.id = task_notices.event
 WHERE task_notices.letter = %(letter)s AND task_notices.recipient = %(recipient)s
 ORDER BY task_notices.event

-- sent --
-- Notes that a letter has left.
UPDATE task_notices SET sent_at = %(now)s WHERE letter = %(letter)s AND recipient = %(recipient)s

-- later --
-- Notes that a letter could not leave yet.
UPDATE task_notices SET next_at = %(next_at)s WHERE letter = %(letter)s AND recipient = %(recipient)s

-- give_up --
-- Notes that a letter will not leave, and why.
UPDATE task_notices SET error = %(error)s WHERE letter = %(letter)s AND recipient = %(recipient)s
