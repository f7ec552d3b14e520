-- An organisation owns projects; nothing of one is visible to another.
CREATE TABLE organisations (
    id          text PRIMARY KEY,
    name        text NOT NULL UNIQUE,
    created_at  timestamptz NOT NULL DEFAULT now()
);
INSERT INTO organisations (id, name) VALUES ('main', 'main');   -- the one a house begins with

ALTER TABLE projects ADD COLUMN organisation text NOT NULL DEFAULT 'main' REFERENCES organisations (id);
