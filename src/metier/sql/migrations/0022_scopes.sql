-- What a key may do, beyond models; and what its owners may, which no key of theirs passes. Null: everything.
ALTER TABLE keys
    ADD COLUMN surfaces text[],                -- such as chat, embeddings, admin
    ADD COLUMN tools text[],                   -- names of functions that calls may offer to a model
    ADD COLUMN digest_before bytea,            -- of the secret before the last rotation
    ADD COLUMN before_until timestamptz,       -- that secret is taken until then
    ADD COLUMN rotated_at timestamptz;
ALTER TABLE projects ADD COLUMN models text[], ADD COLUMN surfaces text[], ADD COLUMN tools text[];
ALTER TABLE organisations ADD COLUMN models text[], ADD COLUMN surfaces text[], ADD COLUMN tools text[];
