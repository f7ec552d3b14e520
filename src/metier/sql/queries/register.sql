-- insert_system --
-- Writes down a new AI use in the status idea; nothing when the name is taken.
INSERT INTO systems (id, name, purpose, owner)
VALUES (%(id)s, %(name)s, %(purpose)s, %(owner)s)
ON CONFLICT DO NOTHING
RETURNING id, name, purpose, owner, status, created_at, changed_at;

-- move_system --
-- Moves a system from the status its mover saw; nothing when it changed meanwhile.
UPDATE systems SET status = %(new_status)s, changed_at = now()
WHERE id = %(id)s AND status = %(old_status)s
RETURNING id, name, purpose, owner, status, created_at, changed_at;

-- insert_approval --
-- Keeps who moved a system, when and why.
INSERT INTO approvals (system, old_status, new_status, by_whom, reason)
VALUES (%(system)s, %(old_status)s, %(new_status)s, %(by_whom)s, %(reason)s);

-- get_system --
-- One system by its id or its name.
SELECT id, name, purpose, owner, status, created_at, changed_at FROM systems
WHERE id = %(id)s OR name = %(id)s
ORDER BY (id = %(id)s) DESC LIMIT 1;

-- list_systems --
-- Every system, by name.
SELECT id, name, purpose, owner, status, created_at, changed_at FROM systems ORDER BY name;

-- list_approvals --
-- The moves of one system, oldest first.
SELECT old_status, new_status, by_whom, reason, at FROM approvals WHERE system = %(system)s ORDER BY id;

-- statuses --
-- The present status of several systems.
SELECT id, status FROM systems WHERE id = ANY(%(ids)s::text[]);

-- names --
-- The names of several systems.
SELECT id, name FROM systems WHERE id = ANY(%(ids)s::text[]);
