-- insert_organisation --
-- Makes an organisation; nothing when its id or name is taken.
INSERT INTO organisations (id, name) VALUES (%(id)s, %(name)s) ON CONFLICT DO NOTHING
RETURNING id, name, created_at;

-- get_organisation --
-- One organisation by its id or its name.
SELECT id, name, created_at FROM organisations WHERE id = %(id)s OR name = %(id)s
ORDER BY (id = %(id)s) DESC LIMIT 1;

-- list_organisations --
-- Every organisation, by name.
SELECT id, name, created_at FROM organisations ORDER BY name;

-- insert_project --
-- Makes a project; nothing when its id or name is taken.
INSERT INTO projects (id, name, organisation) VALUES (%(id)s, %(name)s, %(organisation)s) ON CONFLICT DO NOTHING
RETURNING id, name, organisation, created_at;

-- get_project --
-- One project by its id or its name.
SELECT id, name, organisation, created_at FROM projects WHERE id = %(id)s OR name = %(id)s
ORDER BY (id = %(id)s) DESC LIMIT 1;

-- list_projects --
-- Every project, by name.
SELECT id, name, organisation, created_at FROM projects ORDER BY name;

-- insert_key --
-- Keeps a new key, without its secret.
INSERT INTO keys (id, digest, name, project, system, models, groups, created_by, expires_at)
VALUES (%(id)s, %(digest)s, %(name)s, %(project)s, %(system)s, %(models)s, %(groups)s, %(created_by)s, %(expires_at)s)
RETURNING id, name, project, system, models, groups, created_at, created_by, expires_at, revoked_at;

-- list_keys --
-- The keys of one project, or of all, newest first.
SELECT id, name, project, system, models, groups, created_at, created_by, expires_at, revoked_at FROM keys
WHERE %(project)s::text IS NULL OR project = %(project)s
ORDER BY created_at DESC, id;

-- read_keys --
-- What authentication needs of several keys.
SELECT k.id, k.digest, k.name, k.project, p.organisation, k.system, k.models, k.groups, k.expires_at, k.revoked_at
FROM keys k JOIN projects p ON p.id = k.project
WHERE k.id = ANY(%(ids)s::text[]);

-- revoke_key --
-- Ends a key for good; nothing when it does not exist or is already revoked.
UPDATE keys SET revoked_at = now(), revoked_by = %(by)s WHERE id = %(id)s AND revoked_at IS NULL
RETURNING id;
