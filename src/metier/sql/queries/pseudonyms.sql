-- load --
-- The spellings of one conversation that has not expired, in the order they were given out
SELECT p.kind, p.ordinal, p.variant, p.sealed, t.epoch
FROM conversations t
JOIN pseudonyms p USING (project, conversation)
WHERE t.project = %(project)s AND t.conversation = %(conversation)s AND t.expires_at > %(now)s
ORDER BY p.kind, p.ordinal, p.variant

-- claim --
-- Takes the lock of one conversation until the transaction ends, and gives its epoch, as it was before
INSERT INTO conversations AS t (project, conversation, epoch, expires_at)
VALUES (%(project)s, %(conversation)s, %(epoch)s, %(expires_at)s)
ON CONFLICT (project, conversation) DO UPDATE SET epoch = t.epoch
RETURNING epoch, expires_at

-- renew --
-- Gives a locked conversation its epoch and the moment it will be forgotten
UPDATE conversations SET epoch = %(epoch)s, expires_at = %(expires_at)s
WHERE project = %(project)s AND conversation = %(conversation)s

-- clear --
-- Deletes the spellings of one conversation that begins anew
DELETE FROM pseudonyms WHERE project = %(project)s AND conversation = %(conversation)s

-- keep --
-- Keeps one spelling; under the lock of the conversation nobody else can have taken its place
INSERT INTO pseudonyms (project, conversation, kind, ordinal, variant, spelling, sealed)
VALUES (%(project)s, %(conversation)s, %(kind)s, %(ordinal)s, %(variant)s, %(spelling)s, %(sealed)s)

-- prolong --
-- Moves the end of a conversation that is in use
UPDATE conversations SET expires_at = %(expires_at)s
WHERE project = %(project)s AND conversation = %(conversation)s AND expires_at > %(now)s AND expires_at < %(before)s

-- forget --
-- Deletes some conversations with all their spellings
DELETE FROM conversations t
USING unnest(%(projects)s::text[], %(conversations)s::text[]) AS w (project, conversation)
WHERE t.project = w.project AND t.conversation = w.conversation

-- remembered --
-- Counts those of some conversations that have spellings
SELECT count(*) AS tables FROM conversations t
JOIN unnest(%(projects)s::text[], %(conversations)s::text[]) AS w (project, conversation)
  ON t.project = w.project AND t.conversation = w.conversation

-- purge --
-- Deletes the conversations whose time is over
DELETE FROM conversations WHERE expires_at <= %(now)s
