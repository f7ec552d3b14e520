-- Releases: which version of a workflow a project's runs are started with, for whom, and what became of each.

CREATE TABLE release_heads (
    project text NOT NULL,
    flow text NOT NULL,
    revision bigint NOT NULL DEFAULT 0,          -- grows with every change; who saw an older one is refused
    PRIMARY KEY (project, flow)
);

CREATE TABLE releases (
    project text NOT NULL,
    flow text NOT NULL,
    version integer NOT NULL CHECK (version > 0),
    definition text NOT NULL,                    -- SHA-256 of the content, as runs are pinned to
    data text NOT NULL,                          -- JSON as text: the order of keys carries meaning
    state text NOT NULL DEFAULT 'draft' CHECK (state IN (
        'draft',        -- made by create; nobody's runs are started with it
        'pilot',        -- put there by a person: runs of its pilots are started with it
        'canary',       -- put there by a person: runs of its pilots and of a share of the others
        'all',          -- put there by a person: everybody's runs but those of a pilot or canary
        'retired',      -- put there when another version became the one for all
        'rolled_back'   -- put there by a person or by one of its rules; never started again
    )),
    share double precision NOT NULL DEFAULT 0 CHECK (share >= 0 AND share <= 1),
    pilots text[] NOT NULL DEFAULT '{}',         -- user:<name> or group:<name>
    rules text[] NOT NULL DEFAULT '{}',          -- as written by whoever made it
    score text,                                  -- CEL over what a run gave; null: quality is not measured
    before integer,                              -- version that was for all until this one became it
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    released_at timestamptz,                     -- when it first left draft
    PRIMARY KEY (project, flow, version),
    FOREIGN KEY (project, flow) REFERENCES release_heads (project, flow) ON DELETE CASCADE,
    UNIQUE (project, flow, definition)
);

CREATE UNIQUE INDEX releases_for_all ON releases (project, flow) WHERE state = 'all';
CREATE UNIQUE INDEX releases_canary ON releases (project, flow) WHERE state = 'canary';

CREATE TABLE release_moves (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    project text NOT NULL,
    flow text NOT NULL,
    version integer NOT NULL,
    before text NOT NULL,                        -- state it came from
    state text NOT NULL,                         -- state it went to
    share double precision NOT NULL,
    by text NOT NULL,                            -- name of a person, or "rule"
    reason text NOT NULL DEFAULT '',
    figures text,                                -- JSON: what a rule was decided on
    told_at timestamptz,                         -- null on what a rule did and nobody was told of yet
    at timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (project, flow, version) REFERENCES releases (project, flow, version) ON DELETE CASCADE
);

CREATE INDEX release_moves_of ON release_moves (project, flow, id DESC);
CREATE INDEX release_moves_untold ON release_moves (id) WHERE told_at IS NULL;
CREATE INDEX runs_by_definition ON runs (project, definition, id DESC);
