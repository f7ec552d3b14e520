-- lock_writing --
-- Lets many write contents at once, but none while a subject's key is being dropped.
SELECT pg_advisory_xact_lock_shared(%(lock)s);

-- lock_erasing --
-- Waits for those who write contents and keeps others from beginning until this transaction ends.
SELECT pg_advisory_xact_lock(%(lock)s);

-- workspace_keys --
-- The wrapped keys of some organisations.
SELECT organisation, wrapped FROM workspaces WHERE organisation = ANY(%(organisations)s::text[]);

-- insert_workspace --
-- Keeps the new key of an organisation, unless another process was faster.
INSERT INTO workspaces (organisation, wrapped) VALUES (%(organisation)s, %(wrapped)s) ON CONFLICT DO NOTHING;

-- subject_keys --
-- The wrapped keys of some subjects.
SELECT s.organisation, s.subject, s.wrapped FROM subjects s
JOIN unnest(%(organisations)s::text[], %(subjects)s::text[]) AS w (organisation, subject)
  ON (s.organisation, s.subject) = (w.organisation, w.subject);

-- insert_subject --
-- Keeps the new key of a subject, unless another process was faster.
INSERT INTO subjects (organisation, subject, wrapped) VALUES (%(organisation)s, %(subject)s, %(wrapped)s)
ON CONFLICT DO NOTHING;

-- writable --
-- Of some calls to keep the contents of: those recorded, not kept yet, and not erased since they were made.
SELECT w.call FROM unnest(%(calls)s::text[], %(organisations)s::text[], %(subjects)s::text[], %(ats)s::float8[])
    AS w (call, organisation, subject, at)
WHERE EXISTS (SELECT FROM calls WHERE calls.id = w.call)
  AND NOT EXISTS (SELECT FROM contents WHERE contents.call = w.call)
  AND NOT EXISTS (SELECT FROM erasures e WHERE e.call = w.call)
  AND NOT EXISTS (
      SELECT FROM erasures e
      WHERE e.organisation = w.organisation AND e.subject = w.subject AND e.part IS NULL
        AND e.at >= to_timestamp(w.at));

-- insert_contents --
-- Keeps the sealed contents of one call.
INSERT INTO contents (call, at, organisation, project, system, subject, mode, cut, wrapped, sealed)
VALUES (%(call)s, to_timestamp(%(at)s), %(organisation)s, %(project)s, %(system)s, %(subject)s, %(mode)s, %(cut)s,
    %(wrapped)s, %(sealed)s)
ON CONFLICT (call) DO NOTHING;

-- sealed --
-- One record with the keys above it; a key that was dropped is null.
SELECT c.call, c.at, c.organisation, c.system, c.subject, c.mode, c.cut, c.wrapped, c.sealed,
    w.wrapped AS workspace_key, s.wrapped AS subject_key
FROM contents c
LEFT JOIN workspaces w ON w.organisation = c.organisation
LEFT JOIN subjects s ON s.organisation = c.organisation AND s.subject = c.subject
WHERE c.call = %(call)s;

-- captures --
-- The systems whose contents are captured now, with the mode.
SELECT DISTINCT ON (system) system, capture FROM keepings ORDER BY system, id DESC;

-- keepings --
-- The decision that holds for each system.
SELECT DISTINCT ON (system) system, capture, contents_days, metadata_days, reason, by_whom, at FROM keepings
WHERE %(system)s::text IS NULL OR system = %(system)s
ORDER BY system, id DESC;

-- insert_keeping --
-- Writes down what is kept of a system's calls from now on.
INSERT INTO keepings (system, capture, contents_days, metadata_days, reason, by_whom)
VALUES (%(system)s, %(capture)s, %(contents_days)s, %(metadata_days)s, %(reason)s, %(by_whom)s)
RETURNING system, capture, contents_days, metadata_days, reason, by_whom, at;

-- insert_hold --
-- Begins a legal hold.
INSERT INTO legal_holds (id, scope, target, reason, by_whom)
VALUES (%(id)s, %(scope)s, %(target)s, %(reason)s, %(by_whom)s)
RETURNING id, scope, target, reason, by_whom, at, released_at, released_by;

-- release_hold --
-- Ends a legal hold once; nothing where it is over or unknown.
UPDATE legal_holds SET released_at = now(), released_by = %(by_whom)s WHERE id = %(id)s AND released_at IS NULL
RETURNING id, scope, target, reason, by_whom, at, released_at, released_by;

-- legal_holds --
-- The holds, those that stand first.
SELECT id, scope, target, reason, by_whom, at, released_at, released_by FROM legal_holds
ORDER BY released_at DESC NULLS FIRST, at DESC;

-- erasable --
-- Whose a call is, by whatever is kept of it, and how many contents there are.
SELECT organisation, (SELECT count(*) FROM contents WHERE call = %(call)s) AS contents FROM (
    SELECT organisation FROM contents WHERE call = %(call)s
    UNION SELECT organisation FROM calls WHERE id = %(call)s
    UNION SELECT organisation FROM responses WHERE id = 'resp_' || %(call)s
) AS known LIMIT 1;

-- held --
-- Records of a subject, or of one call, that a legal hold covers, whichever room keeps them.
SELECT count(DISTINCT c.call) AS calls, min(h.id) AS hold FROM (
    SELECT call, system, project, subject FROM contents
    WHERE CASE WHEN %(call)s::text IS NOT NULL THEN call = %(call)s
          ELSE organisation = %(organisation)s AND subject = %(subject)s END
    UNION ALL
    SELECT substr(id, 6), system, project, subject FROM responses
    WHERE CASE WHEN %(call)s::text IS NOT NULL THEN id = 'resp_' || %(call)s
          ELSE organisation = %(organisation)s AND subject = %(subject)s END
    UNION ALL
    SELECT id, system, project, coalesce(end_user, project) FROM calls WHERE id = %(call)s
    UNION ALL
    SELECT id, system, project, end_user FROM calls
    WHERE organisation = %(organisation)s AND end_user = %(person)s
    UNION ALL
    SELECT id, system, project, project FROM calls
    WHERE organisation = %(organisation)s AND project = %(project)s AND end_user IS NULL AND conversation IS NOT NULL
) AS c JOIN legal_holds h ON h.released_at IS NULL AND (
    (h.scope = 'system' AND h.target = c.system) OR (h.scope = 'project' AND h.target = c.project)
    OR (h.scope = 'subject' AND h.target = c.subject) OR (h.scope = 'call' AND h.target = c.call));

-- count_subject --
-- Records of a subject.
SELECT count(*) AS records FROM contents WHERE organisation = %(organisation)s AND subject = %(subject)s;

-- drop_record --
-- Erases one record, its wrapped key with it.
DELETE FROM contents WHERE call = %(call)s RETURNING organisation;

-- drop_subject --
-- Drops the key of a subject: whatever it sealed is unreadable from here on.
DELETE FROM subjects WHERE organisation = %(organisation)s AND subject = %(subject)s;

-- purge_erased --
-- Deletes some records that an erasure of their subject made unreadable.
DELETE FROM contents WHERE call IN (
    SELECT c.call FROM erasures e
    JOIN contents c
      ON c.organisation = e.organisation AND c.subject = e.subject AND c.at <= e.at AND e.part IS NULL
    WHERE %(subject)s::text IS NULL OR (e.organisation = %(organisation)s AND e.subject = %(subject)s)
    LIMIT %(most)s);

-- insert_erasure --
-- Writes down what was erased, by whom and why.
INSERT INTO erasures (id, organisation, subject, call, records, unlinked, elsewhere, part, reason, by_whom)
VALUES (%(id)s, %(organisation)s, %(subject)s, %(call)s, %(records)s, %(unlinked)s, %(elsewhere)s, %(part)s,
    %(reason)s, %(by_whom)s);

-- expired_contents --
-- How many records of a system are older than a moment and under no hold.
SELECT count(*) AS records FROM contents c
WHERE c.system = %(system)s AND c.at < %(before)s AND NOT EXISTS (
    SELECT FROM legal_holds h WHERE h.released_at IS NULL AND (
        (h.scope = 'system' AND h.target = c.system) OR (h.scope = 'project' AND h.target = c.project)
        OR (h.scope = 'subject' AND h.target = c.subject) OR (h.scope = 'call' AND h.target = c.call)));

-- expire_contents --
-- Deletes some records of a system that are older than a moment and under no hold.
DELETE FROM contents WHERE call IN (
    SELECT c.call FROM contents c
    WHERE c.system = %(system)s AND c.at < %(before)s AND NOT EXISTS (
        SELECT FROM legal_holds h WHERE h.released_at IS NULL AND (
            (h.scope = 'system' AND h.target = c.system) OR (h.scope = 'project' AND h.target = c.project)
            OR (h.scope = 'subject' AND h.target = c.subject) OR (h.scope = 'call' AND h.target = c.call)))
    LIMIT %(most)s);

-- drop_idle_subjects --
-- Drops some keys that seal nothing, made long before a moment.
DELETE FROM subjects WHERE (organisation, subject) IN (
    SELECT s.organisation, s.subject FROM subjects s
    WHERE s.created_at < %(before)s AND NOT EXISTS (
        SELECT FROM contents c WHERE c.organisation = s.organisation AND c.subject = s.subject)
    LIMIT %(most)s);

-- grant_reader --
-- Lets somebody read the contents of a system's calls for some days.
INSERT INTO readers (id, who, system, reason, granted_by, until)
VALUES (%(id)s, %(who)s, %(system)s, %(reason)s, %(granted_by)s, now() + make_interval(days => %(days)s))
RETURNING id, who, system, reason, granted_by, granted_at, until, revoked_at;

-- revoke_reader --
-- Ends whatever lets somebody read the contents of a system's calls.
UPDATE readers SET revoked_at = now() WHERE who = %(who)s AND system = %(system)s AND revoked_at IS NULL;

-- may_read --
-- Whether somebody may read the contents of a system's calls now.
SELECT EXISTS (
    SELECT FROM readers WHERE who = %(who)s AND system = %(system)s AND revoked_at IS NULL AND until > now()) AS may;

-- readers --
-- Who may read contents now.
SELECT id, who, system, reason, granted_by, granted_at, until, revoked_at FROM readers
WHERE revoked_at IS NULL AND until > now() ORDER BY who, system;

-- insert_read --
-- Writes down that somebody read contents, or was refused.
INSERT INTO content_reads (call, system, by_whom, reason, outcome)
VALUES (%(call)s, %(system)s, %(by_whom)s, %(reason)s, %(outcome)s);

-- reads --
-- Who read the contents of a call, or of any, and who was refused, latest first.
SELECT call, system, by_whom, reason, outcome, at FROM content_reads
WHERE %(call)s::text IS NULL OR call = %(call)s ORDER BY id DESC LIMIT %(most)s;

-- expire_reads --
-- Deletes some rows about readings older than a moment.
DELETE FROM content_reads WHERE id IN (SELECT id FROM content_reads WHERE at < %(before)s ORDER BY id LIMIT %(most)s);
