-- begin --
-- Makes a file that arrives; it is nobody's business until it is stored.
INSERT INTO files (id, project, key_id, created_at, expires_at)
VALUES (%(id)s, %(project)s, %(key_id)s, %(now)s, %(expires_at)s)

-- keep_piece --
-- Keeps one sealed piece.
INSERT INTO file_pieces (file, number, sealed) VALUES (%(file)s, %(number)s, %(sealed)s)

-- lock_project --
-- Lets one file of a project be counted at a time, until the transaction ends.
SELECT pg_advisory_xact_lock(hashtextextended(%(project)s, 7019001)) IS NULL AS locked

-- held --
-- Counts what a project keeps.
SELECT count(*) AS files, coalesce(sum(bytes), 0)::bigint AS bytes
  FROM files WHERE project = %(project)s AND stored AND expires_at > %(now)s

-- stored --
-- Makes an arrived file known to its project.
UPDATE files SET stored = true, purpose = %(purpose)s, name = %(name)s, bytes = %(bytes)s, expires_at = %(expires_at)s
 WHERE id = %(id)s AND NOT stored
RETURNING id, project, purpose, name, bytes, created_at, expires_at

-- get --
-- Gives a file of a project that has not expired.
SELECT id, project, purpose, name, bytes, created_at, expires_at
  FROM files WHERE id = %(id)s AND project = %(project)s AND stored AND expires_at > %(now)s

-- newest --
-- Gives one page of the files of a project, newest first.
SELECT id, project, purpose, name, bytes, created_at, expires_at
  FROM files
 WHERE project = %(project)s AND stored AND expires_at > %(now)s
   AND (%(purpose)s::text IS NULL OR purpose = %(purpose)s) AND (%(after)s::text IS NULL OR id < %(after)s)
 ORDER BY id DESC LIMIT %(limit)s

-- oldest --
-- Gives one page of the files of a project, oldest first.
SELECT id, project, purpose, name, bytes, created_at, expires_at
  FROM files
 WHERE project = %(project)s AND stored AND expires_at > %(now)s
   AND (%(purpose)s::text IS NULL OR purpose = %(purpose)s) AND (%(after)s::text IS NULL OR id > %(after)s)
 ORDER BY id LIMIT %(limit)s

-- reader --
-- Gives a batch that still reads a file.
SELECT id FROM batches
 WHERE input_file = %(id)s AND status IN ('validating', 'in_progress', 'finalizing', 'cancelling') LIMIT 1

-- piece --
-- Gives one sealed piece.
SELECT sealed FROM file_pieces WHERE file = %(file)s AND number = %(number)s

-- lock --
-- Holds a file for the rest of the transaction, so that no batch begins to read what is being deleted.
SELECT id FROM files WHERE id = %(id)s AND project = %(project)s AND stored AND expires_at > %(now)s FOR UPDATE OF files

-- drop --
-- Deletes a file with its pieces.
DELETE FROM files WHERE id = %(id)s

-- purge --
-- Deletes files whose time is over and which no batch reads any more, a few at once.
DELETE FROM files WHERE id IN (
    SELECT id FROM files file
     WHERE expires_at <= %(now)s
       AND NOT EXISTS (SELECT 1 FROM batches WHERE input_file = file.id
                          AND status IN ('validating', 'in_progress', 'finalizing', 'cancelling'))
     ORDER BY expires_at LIMIT 20 FOR UPDATE SKIP LOCKED)
