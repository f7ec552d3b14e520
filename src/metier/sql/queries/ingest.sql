-- create_collection --
-- Makes a collection if its organisation has none of that name; one row when it did.
INSERT INTO collections (id, organisation, name, language)
VALUES (%(id)s, %(organisation)s, %(name)s, %(language)s)
ON CONFLICT (organisation, name) DO NOTHING
RETURNING id

-- collection --
-- What documents know a collection by, and its language.
SELECT id, language FROM collections WHERE organisation = %(organisation)s AND name = %(name)s

-- all_collections --
-- Every collection of an organisation with the number of its documents.
SELECT c.name, c.language, c.chunks, (SELECT count(*) FROM documents d WHERE d.collection = c.id) AS documents
FROM collections c WHERE c.organisation = %(organisation)s ORDER BY c.name

-- lock_collection --
-- Holds the collection until the transaction ends, so that its counts change one document at a time.
SELECT id FROM collections WHERE organisation = %(organisation)s AND name = %(name)s FOR UPDATE OF collections

-- delete_collection --
-- Removes a collection with everything in it.
DELETE FROM collections WHERE organisation = %(organisation)s AND name = %(name)s

-- document --
-- One document of a collection by its name.
SELECT id, slug, title, version, groups, hash, made_with, next_number, warnings,
       (SELECT count(*) FROM chunks c WHERE c.document = d.id) AS chunks,
       (SELECT count(*) FROM chunks c WHERE c.document = d.id AND c.model = %(model)s::text) AS embedded
FROM documents d WHERE collection = %(collection)s AND name = %(name)s

-- all_documents --
-- Every document of a collection, for its administrators.
SELECT d.name, d.title, d.version, d.language, d.groups, d.warnings, d.ingested_at,
       (SELECT count(*) FROM chunks c WHERE c.document = d.id) AS chunks
FROM documents d WHERE d.collection = %(collection)s ORDER BY d.name

-- slug_taken --
-- A row when another document of the collection has the slug.
SELECT 1 AS taken FROM documents WHERE collection = %(collection)s AND slug = %(slug)s

-- kept_chunks --
-- What the chunks of a document can hand on to its next version: their ids, and vectors of the same text.
SELECT id, hash, model, embedding::text AS embedding FROM chunks WHERE document = %(document)s ORDER BY place

-- put_document --
-- Writes a document or its new version.
INSERT INTO documents (id, collection, name, slug, title, language, version, groups, hash, made_with, text, warnings,
                       next_number)
VALUES (%(id)s, %(collection)s, %(name)s, %(slug)s, %(title)s, %(language)s, %(version)s, %(groups)s, %(hash)s,
        %(made_with)s, %(text)s, %(warnings)s, %(next_number)s)
ON CONFLICT (id) DO UPDATE SET
    title = excluded.title, language = excluded.language, version = excluded.version, groups = excluded.groups,
    hash = excluded.hash, made_with = excluded.made_with, text = excluded.text, warnings = excluded.warnings,
    next_number = excluded.next_number, ingested_at = now()

-- set_groups --
-- Changes who may read a document, from the next search on.
UPDATE documents SET groups = %(groups)s WHERE collection = %(collection)s AND name = %(name)s

-- discount_terms --
-- Takes the chunks of a document out of the counts of its collection's words.
UPDATE terms SET chunks = terms.chunks - gone.chunks
FROM (SELECT term, count(*) AS chunks FROM chunks, unnest(chunks.terms) AS term
      WHERE chunks.document = %(document)s GROUP BY term) AS gone
WHERE terms.id = gone.term

-- discount_collection --
-- Takes the chunks of a document out of the counts of its collection.
UPDATE collections SET chunks = collections.chunks - gone.chunks, length = collections.length - gone.length
FROM (SELECT count(*) AS chunks, coalesce(sum(length), 0) AS length FROM chunks WHERE document = %(document)s) AS gone
WHERE id = %(collection)s

-- delete_chunks --
-- Removes the chunks of a document.
DELETE FROM chunks WHERE document = %(document)s

-- delete_document --
-- Removes a document; its chunks go with it.
DELETE FROM documents WHERE id = %(document)s

-- forget_terms --
-- Removes the words that no chunk of the collection holds any more.
DELETE FROM terms WHERE collection = %(collection)s AND chunks = 0

-- count_terms --
-- Adds to the counts of words of a collection, new words among them, and gives their ids.
WITH added AS (
    SELECT term, chunks FROM unnest(%(terms)s::text[], %(chunks)s::integer[]) AS u (term, chunks)
), raised AS (
    UPDATE terms SET chunks = terms.chunks + added.chunks FROM added
    WHERE terms.collection = %(collection)s AND terms.term = added.term
    RETURNING terms.term, terms.id
), fresh AS (
    INSERT INTO terms (collection, term, chunks)
    SELECT %(collection)s, added.term, added.chunks FROM added
    WHERE NOT EXISTS (SELECT 1 FROM terms t WHERE t.collection = %(collection)s AND t.term = added.term)
    RETURNING term, id
)
SELECT term, id FROM raised UNION ALL SELECT term, id FROM fresh

-- count_collection --
-- Adds to the counts of a collection.
UPDATE collections SET chunks = chunks + %(chunks)s, length = length + %(length)s WHERE id = %(collection)s

-- put_chunk --
-- Writes one chunk; its weights follow in the same transaction.
INSERT INTO chunks (collection, id, document, place, text, headings, char_start, char_end, parent_start, parent_end,
                    page, sheet, row_first, row_last, hash, terms, counts, length, codes, embedding, model)
VALUES (%(collection)s, %(id)s, %(document)s, %(place)s, %(text)s, %(headings)s, %(char_start)s, %(char_end)s,
        %(parent_start)s, %(parent_end)s, %(page)s, %(sheet)s, %(row_first)s, %(row_last)s, %(hash)s, %(terms)s,
        %(counts)s, %(length)s, %(codes)s, %(embedding)s::vector, %(model)s)

-- pin_length --
-- Takes the mean length anew when it has moved by more than a twentieth since the weights were computed.
UPDATE collections SET pinned = length::double precision / chunks
WHERE id = %(collection)s AND chunks > 0 AND abs(length::double precision / chunks - pinned) > 0.05 * pinned
RETURNING pinned

-- weigh --
-- Computes the BM25 weights of one document, or of the whole collection when no document is given.
UPDATE chunks SET bm25 = weighed.bm25
FROM (SELECT c.id,
             ('{' || coalesce(string_agg(
                 term || ':' || (times * 2.2 / (times + 1.2 * (0.25 + 0.75 * c.length / nullif(k.pinned, 0))))::real,
                 ',' ORDER BY term), '') || '}/1000000000')::sparsevec AS bm25
      FROM chunks c
      JOIN collections k ON k.id = c.collection
      LEFT JOIN LATERAL unnest(c.terms, c.counts) AS u (term, times) ON true
      WHERE c.collection = %(collection)s AND (%(document)s::text IS NULL OR c.document = %(document)s)
      GROUP BY c.id) AS weighed
WHERE chunks.collection = %(collection)s AND chunks.id = weighed.id
