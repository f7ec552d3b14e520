-- add --
-- Keeps a link that was made for one person and one task.
INSERT INTO task_links (id, task, person, assignee, made_at, expires_at)
VALUES (%(id)s, %(task)s, %(person)s, %(assignee)s, %(made_at)s, %(expires_at)s)

-- get --
-- Gives a link with the state of its task, and to which organisation that belongs.
SELECT task_links.*, tasks.state, tasks.assignee AS now_for, coalesce(projects.organisation, 'main') AS organisation
  FROM task_links JOIN tasks ON tasks.id = task_links.task LEFT JOIN projects ON projects.id = tasks.project
 WHERE task_links.id = %(id)s

-- use --
-- Marks a link as used, unless it was used before or is too old.
UPDATE task_links SET used_at = %(now)s WHERE id = %(id)s AND used_at IS NULL AND expires_at > %(now)s
