-- insert_organisation --
-- Makes an organisation; nothing when its id or name is taken.
INSERT INTO organisations (id, name) VALUES (%(id)s, %(name)s) ON CONFLICT DO NOTHING
RETURNING id, name, created_at, models, surfaces, tools;

-- bound_organisation --
-- Says what the keys of an organisation may do at most.
UPDATE organisations SET models = %(models)s::text[], surfaces = %(surfaces)s::text[], tools = %(tools)s::text[]
WHERE id = %(id)s
RETURNING id, name, created_at, models, surfaces, tools;

-- get_organisation --
-- One organisation by its id or its name.
SELECT id, name, created_at, models, surfaces, tools FROM organisations WHERE id = %(id)s OR name = %(id)s
ORDER BY (id = %(id)s) DESC LIMIT 1;

-- list_organisations --
-- Every organisation, by name.
SELECT id, name, created_at, models, surfaces, tools FROM organisations ORDER BY name;

-- insert_project --
-- Makes a project; nothing when its id or name is taken.
INSERT INTO projects (id, name, organisation) VALUES (%(id)s, %(name)s, %(organisation)s) ON CONFLICT DO NOTHING
RETURNING id, name, organisation, created_at, models, surfaces, tools;

-- bound_project --
-- Says what the keys of a project may do at most.
UPDATE projects SET models = %(models)s::text[], surfaces = %(surfaces)s::text[], tools = %(tools)s::text[]
WHERE id = %(id)s
RETURNING id, name, organisation, created_at, models, surfaces, tools;

-- get_project --
-- One project by its id or its name.
SELECT id, name, organisation, created_at, models, surfaces, tools FROM projects WHERE id = %(id)s OR name = %(id)s
ORDER BY (id = %(id)s) DESC LIMIT 1;

-- list_projects --
-- Every project, by name.
SELECT id, name, organisation, created_at, models, surfaces, tools FROM projects ORDER BY name;

-- insert_key --
-- Keeps a new key, without its secret.
INSERT INTO keys (id, digest, name, project, system, models, groups, surfaces, tools, created_by, expires_at)
VALUES (%(id)s, %(digest)s, %(name)s, %(project)s, %(system)s, %(models)s, %(groups)s, %(surfaces)s, %(tools)s,
        %(created_by)s, %(expires_at)s)
RETURNING id, name, project, system, models, groups, surfaces, tools, created_at, created_by, expires_at, revoked_at,
    rotated_at, before_until;

-- get_key --
-- One key by its public part.
SELECT id, name, project, system, models, groups, surfaces, tools, created_at, created_by, expires_at, revoked_at,
    rotated_at, before_until
FROM keys WHERE id = %(id)s;

-- rotate_key --
-- Gives a key another secret; the one before is taken until a moment. Nothing when the key is over.
UPDATE keys SET digest_before = digest, digest = %(digest)s, rotated_at = now(),
    before_until = now() + make_interval(secs => %(grace_s)s)
WHERE id = %(id)s AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
RETURNING id, name, project, system, models, groups, surfaces, tools, created_at, created_by, expires_at, revoked_at,
    rotated_at, before_until;

-- list_keys --
-- The keys of one project, or of all, newest first.
SELECT id, name, project, system, models, groups, surfaces, tools, created_at, created_by, expires_at, revoked_at,
    rotated_at, before_until
FROM keys WHERE %(project)s::text IS NULL OR project = %(project)s
ORDER BY created_at DESC, id;

-- read_keys --
-- What authentication needs of several keys.
SELECT k.id, k.digest, k.digest_before, k.before_until, k.name, k.project, p.organisation, k.system, k.groups,
    k.expires_at, k.revoked_at,
    k.models, p.models AS project_models, o.models AS organisation_models,
    k.surfaces, p.surfaces AS project_surfaces, o.surfaces AS organisation_surfaces,
    k.tools, p.tools AS project_tools, o.tools AS organisation_tools
FROM keys k JOIN projects p ON p.id = k.project JOIN organisations o ON o.id = p.organisation
WHERE k.id = ANY(%(ids)s::text[]);

-- groups_of --
-- Groups of whoever has a good key of a name in an organisation that opens the pages of people.
SELECT DISTINCT unnest(k.groups) AS name FROM keys k JOIN projects p ON p.id = k.project
WHERE k.name = %(name)s AND p.organisation = %(organisation)s AND k.revoked_at IS NULL
    AND (k.expires_at IS NULL OR k.expires_at > now()) AND (k.surfaces IS NULL OR 'admin' = ANY(k.surfaces));

-- revoke_key --
-- Ends a key for good; nothing when it does not exist or is already revoked.
UPDATE keys SET revoked_at = now(), revoked_by = %(by)s WHERE id = %(id)s AND revoked_at IS NULL
RETURNING id;
