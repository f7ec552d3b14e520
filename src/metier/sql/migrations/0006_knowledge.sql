-- Collections, their documents, and the chunks that are searched. All four tables are written by ingest alone.
CREATE EXTENSION IF NOT EXISTS vector;

CREATE TABLE collections (
    name        text PRIMARY KEY,
    language    text NOT NULL CHECK (language IN ('fr', 'en')),   -- of the analyser: questions and documents share it
    chunks      integer NOT NULL DEFAULT 0,                       -- chunks in it now
    length      bigint NOT NULL DEFAULT 0,                        -- search terms in all of them, repeats counted
    pinned      double precision NOT NULL DEFAULT 0,              -- mean length that every stored weight was computed with
    created_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE documents (
    id           text PRIMARY KEY,
    collection   text NOT NULL REFERENCES collections (name) ON DELETE CASCADE,
    name         text NOT NULL,                                   -- as its source calls it; adding it again replaces it
    slug         text NOT NULL,                                   -- first part of the citation ids of its chunks
    title        text,
    language     text,
    version      text,
    groups       text[] NOT NULL CHECK (cardinality(groups) > 0), -- a reader of any of these may read it, nobody else
    hash         text NOT NULL,                                   -- SHA-256 of the file
    made_with    text NOT NULL,                                   -- revision of parser, chunker and analyser
    text         text NOT NULL,                                   -- anchors of chunks count its characters
    warnings     text[] NOT NULL,                                 -- what the parser left out
    next_number  integer NOT NULL DEFAULT 1,                      -- number of its next new chunk; never given twice
    ingested_at  timestamptz NOT NULL DEFAULT now(),
    UNIQUE (collection, name),
    UNIQUE (collection, slug)
);
CREATE INDEX documents_by_groups ON documents USING gin (groups);

-- The words of a collection, and in how many of its chunks each stands. A word of no chunk is deleted.
CREATE TABLE terms (
    id          integer GENERATED ALWAYS AS IDENTITY UNIQUE,      -- index in the sparse vectors
    collection  text NOT NULL REFERENCES collections (name) ON DELETE CASCADE,
    term        text NOT NULL,
    chunks      integer NOT NULL CHECK (chunks >= 0),
    PRIMARY KEY (collection, term)
);
CREATE INDEX terms_unused ON terms (collection) WHERE chunks = 0;

CREATE TABLE chunks (
    collection    text NOT NULL REFERENCES collections (name) ON DELETE CASCADE,
    id            text NOT NULL,                                  -- the citation id: slug of the document and number
    document      text NOT NULL REFERENCES documents (id) ON DELETE CASCADE,
    place         integer NOT NULL,                               -- order in the document, from 1
    text          text NOT NULL,
    headings      text[] NOT NULL,
    char_start    integer NOT NULL,
    char_end      integer NOT NULL,
    parent_start  integer NOT NULL,                               -- the section around it
    parent_end    integer NOT NULL,
    page          integer,
    sheet         text,
    row_first     integer,
    row_last      integer,
    hash          text NOT NULL,                                  -- SHA-256 of the text that is searched, path included
    terms         integer[] NOT NULL,
    counts        integer[] NOT NULL,                             -- how often each of the terms occurs
    length        integer NOT NULL,
    bm25          sparsevec,                                      -- weights of the terms; null only inside the writing transaction
    codes         text[] NOT NULL,                                -- codes and part numbers, without separators
    embedding     vector,                                         -- null: not embedded, found by its words only
    model         text,                                           -- the embedding model that made it
    PRIMARY KEY (collection, id),
    CHECK ((embedding IS NULL) = (model IS NULL))
);
CREATE INDEX chunks_by_document ON chunks (document);
CREATE INDEX chunks_by_terms ON chunks USING gin (terms);
CREATE INDEX chunks_by_codes ON chunks USING gin (codes);
