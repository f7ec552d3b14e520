-- An erasure of one room alone is written down too, and says nothing about the others.
ALTER TABLE erasures ADD COLUMN part text;     -- null: every room; otherwise the only one, such as 'runs'
