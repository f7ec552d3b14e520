-- put --
-- write a secret, or put another value in its place
INSERT INTO secrets (organisation, project, name, scope, sealed, set_by)
VALUES (%(organisation)s, %(project)s, %(name)s, %(scope)s::text[], %(sealed)s, %(by)s)
ON CONFLICT (organisation, project, name) DO UPDATE
SET scope = EXCLUDED.scope, sealed = EXCLUDED.sealed, set_by = EXCLUDED.set_by, set_at = now();

-- get --
-- the secret of a name for a project, its own before that of its organisation
SELECT organisation, project, name, scope, sealed
FROM secrets
WHERE organisation = %(organisation)s AND project IN (%(project)s, '') AND name = %(name)s
ORDER BY project = '', project
LIMIT 1;

-- list --
-- what secrets there are, without their values
SELECT organisation, project, name, scope, set_by, set_at
FROM secrets
WHERE %(organisation)s::text IS NULL OR organisation = %(organisation)s::text
ORDER BY organisation, project, name;

-- remove --
-- delete one secret for good
DELETE FROM secrets
WHERE organisation = %(organisation)s AND project = %(project)s AND name = %(name)s;
