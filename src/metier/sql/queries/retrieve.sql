-- collection --
-- The language of a collection of the reader's organisation.
SELECT language FROM collections WHERE organisation = %(organisation)s AND name = %(collection)s

-- search --
-- The best chunks for a question among those the reader may read, with the score of each arm.
WITH here AS (
    SELECT id, chunks FROM collections WHERE organisation = %(organisation)s AND name = %(collection)s
), asked AS (
    SELECT t.id, ln(1 + (k.chunks - coalesce(t.chunks, 0) + 0.5) / (coalesce(t.chunks, 0) + 0.5)) AS idf
    FROM here k
    CROSS JOIN unnest(%(terms)s::text[]) AS q (term)
    LEFT JOIN terms t ON t.collection = k.id AND t.term = q.term
), question AS (
    SELECT coalesce(array_agg(id) FILTER (WHERE id IS NOT NULL), '{}') AS ids,
           ('{' || coalesce(string_agg(id || ':' || idf::real, ',' ORDER BY id) FILTER (WHERE id IS NOT NULL), '')
                || '}/1000000000')::sparsevec AS weights,
           2.2 * sum(idf) AS most
    FROM asked
), words AS (
    SELECT c.id
    FROM chunks c JOIN documents d ON d.id = c.document CROSS JOIN question q
    WHERE c.collection = (SELECT id FROM here) AND d.groups && %(groups)s::text[] AND c.terms && q.ids
    ORDER BY c.bm25 <#> q.weights, c.id LIMIT %(depth)s
), meanings AS (
    SELECT c.id
    FROM chunks c JOIN documents d ON d.id = c.document
    WHERE c.collection = (SELECT id FROM here) AND d.groups && %(groups)s::text[]
      AND c.model = %(model)s::text AND %(vector)s::vector IS NOT NULL
    ORDER BY c.embedding <=> %(vector)s::vector, c.id LIMIT %(depth)s
), codes AS (
    SELECT c.id
    FROM chunks c JOIN documents d ON d.id = c.document
    WHERE c.collection = (SELECT id FROM here) AND d.groups && %(groups)s::text[]
      AND (c.codes && %(codes)s::text[]
           OR (%(codes)s::text[] <> '{}' AND EXISTS (
               SELECT 1 FROM unnest(c.codes) AS has (code), unnest(%(codes)s::text[]) AS wanted (code)
               WHERE length(wanted.code) >= 4 AND starts_with(has.code, wanted.code))))
    ORDER BY NOT c.codes && %(codes)s::text[], c.id LIMIT %(depth)s
), candidates AS (
    SELECT id FROM words UNION SELECT id FROM meanings UNION SELECT id FROM codes
), arms AS (
    SELECT c.id,
           coalesce(-(c.bm25 <#> q.weights) / nullif(q.most, 0), 0) AS lexical,
           CASE WHEN c.model = %(model)s::text THEN 1 - (c.embedding <=> %(vector)s::vector) END AS cosine,
           coalesce((SELECT avg(CASE WHEN wanted.code = ANY (c.codes) THEN 0.5
                                     WHEN length(wanted.code) >= 4 AND EXISTS (
                                         SELECT 1 FROM unnest(c.codes) AS has (code)
                                         WHERE starts_with(has.code, wanted.code)) THEN 0.25
                                     ELSE 0 END)
                     FROM unnest(%(codes)s::text[]) AS wanted (code)), 0) AS exact
    FROM candidates JOIN chunks c ON c.collection = (SELECT id FROM here) AND c.id = candidates.id CROSS JOIN question q
), scored AS (
    SELECT id, lexical, cosine, exact,
           exact + (1 - exact) * CASE
               WHEN %(vector)s::vector IS NULL THEN lexical
               ELSE %(dense)s::double precision
                    * greatest(0, least(1, (coalesce(cosine, 0) - %(floor)s) / (%(ceiling)s::double precision - %(floor)s)))
                    + (1 - %(dense)s::double precision) * lexical
           END AS score
    FROM arms
)
SELECT c.id, d.name AS document, d.title, d.version, c.text, c.headings, c.char_start, c.char_end, c.page, c.sheet,
       c.row_first, c.row_last, s.score, s.lexical, s.cosine, s.exact
FROM scored s
JOIN chunks c ON c.collection = (SELECT id FROM here) AND c.id = s.id
JOIN documents d ON d.id = c.document
WHERE s.score > 0 AND s.score >= %(min_score)s
ORDER BY s.score DESC, c.id
LIMIT %(top_k)s

-- extracts --
-- Chunks by their citation ids, those the reader may read, each with the section around it.
SELECT c.id, d.name AS document, d.title, d.version, c.text, c.headings, c.char_start, c.char_end, c.page, c.sheet,
       c.row_first, c.row_last, substr(d.text, c.parent_start + 1, c.parent_end - c.parent_start) AS section
FROM collections k JOIN chunks c ON c.collection = k.id JOIN documents d ON d.id = c.document
WHERE k.organisation = %(organisation)s AND k.name = %(collection)s
  AND c.id = ANY (%(ids)s::text[]) AND d.groups && %(groups)s::text[]
ORDER BY array_position(%(ids)s::text[], c.id)

-- documents --
-- The documents of a collection that the reader may read.
SELECT d.name, d.title, d.version, d.language, d.groups, d.warnings, d.ingested_at,
       (SELECT count(*) FROM chunks c WHERE c.document = d.id) AS chunks
FROM collections k JOIN documents d ON d.collection = k.id
WHERE k.organisation = %(organisation)s AND k.name = %(collection)s AND d.groups && %(groups)s::text[]
ORDER BY d.name
