-- A collection belongs to an organisation, and its name to that organisation alone: groups of the same name elsewhere
-- read nothing of it. Documents know it by an id, so that names may be the same.
ALTER TABLE documents DROP CONSTRAINT documents_collection_fkey;
ALTER TABLE terms DROP CONSTRAINT terms_collection_fkey;
ALTER TABLE chunks DROP CONSTRAINT chunks_collection_fkey;
ALTER TABLE collections DROP CONSTRAINT collections_pkey;

ALTER TABLE collections
    ADD COLUMN id text,
    ADD COLUMN organisation text NOT NULL DEFAULT 'main' REFERENCES organisations (id);
UPDATE collections SET id = name;  -- those of earlier versions keep what their documents know them by
ALTER TABLE collections ADD PRIMARY KEY (id), ADD UNIQUE (organisation, name);

ALTER TABLE documents ADD FOREIGN KEY (collection) REFERENCES collections (id) ON DELETE CASCADE;
ALTER TABLE terms ADD FOREIGN KEY (collection) REFERENCES collections (id) ON DELETE CASCADE;
ALTER TABLE chunks ADD FOREIGN KEY (collection) REFERENCES collections (id) ON DELETE CASCADE;
