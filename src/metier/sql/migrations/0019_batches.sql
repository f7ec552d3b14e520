-- Files of clients, in sealed pieces, and batches: many requests of one file, made when there is room for them.

CREATE TABLE files (
    id text PRIMARY KEY,
    project text NOT NULL,
    key_id text NOT NULL,                        -- who brought it; '' when a batch wrote it
    purpose text NOT NULL DEFAULT '',            -- 'batch', 'batch_output' or 'user_data'; '' while it arrives
    name bytea,                                  -- sealed
    bytes bigint NOT NULL DEFAULT 0,             -- of the clear content
    stored boolean NOT NULL DEFAULT false,       -- false while it arrives: nobody but its sender knows of it
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL              -- purged from then on, unless a batch still reads it
);

CREATE INDEX files_by_project ON files (project, id DESC);
CREATE INDEX files_by_expiry ON files (expires_at);

CREATE TABLE file_pieces (
    file text NOT NULL REFERENCES files (id) ON DELETE CASCADE,
    number integer NOT NULL,                     -- piece n holds bytes n × 262,144 and those that follow
    sealed bytea NOT NULL,
    PRIMARY KEY (file, number)
);
ALTER TABLE file_pieces ALTER COLUMN sealed SET STORAGE EXTERNAL;  -- compressed before it was sealed

CREATE TYPE batch_status AS ENUM (
    'validating',   -- made by its client; a worker reads the file line by line
    'in_progress',  -- put there by the worker: every line is known; calls are made, or waited with
    'finalizing',   -- put there by the worker: no further call is made; `ending` says how it ends
    'completed',    -- every line has its answer or its error; final
    'failed',       -- the file could not be used, or the key may call no more; final
    'expired',      -- its time was over before its lines were; final
    'cancelling',   -- put there by its client; calls under way are waited for
    'cancelled'     -- final
);

CREATE TABLE batches (
    id text PRIMARY KEY,
    project text NOT NULL,
    key_id text NOT NULL,                        -- every call is made in its name
    endpoint text NOT NULL,
    input_file text NOT NULL,                    -- no reference: it may be purged once the batch is over
    status batch_status NOT NULL DEFAULT 'validating',
    epoch bigint NOT NULL DEFAULT 0,             -- grows each time the batch changes hands; older writers are refused
    quiet_hours text NOT NULL DEFAULT '',        -- when calls may be made, as '22:00-06:00 Europe/Paris'; '' is always
    metadata bytea NOT NULL,                     -- sealed
    keep_s integer NOT NULL,                     -- how long the files it writes are kept
    under_way integer NOT NULL DEFAULT 0,        -- calls begun by the worker that holds it
    stalls integer NOT NULL DEFAULT 0,           -- pauses in a row without one answer between them
    paused text,                                 -- code of what it waits for
    resume_at timestamptz,
    ending batch_status,
    errors bytea,                                -- sealed, once failed
    output_file text,
    error_file text,
    total integer,                               -- counts, once it is over and its lines are gone
    done integer,
    failed integer,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    in_progress_at timestamptz,
    finalizing_at timestamptz,
    cancelling_at timestamptz,
    ended_at timestamptz
);

CREATE INDEX batches_by_project ON batches (project, id DESC);
CREATE INDEX batches_open ON batches (input_file)
    WHERE status IN ('validating', 'in_progress', 'finalizing', 'cancelling');

CREATE INDEX batches_calling ON batches (project) WHERE status IN ('in_progress', 'cancelling');

CREATE TYPE batch_line_state AS ENUM (
    'todo',    -- to be called, or given back
    'begun',   -- a worker makes the call; one that died leaves it so, and who takes the batch next makes it 'todo'
    'done',    -- its answer is in the line
    'failed'   -- its error is in the line
);

CREATE TABLE batch_lines (
    batch text NOT NULL REFERENCES batches (id) ON DELETE CASCADE,
    number integer NOT NULL,                     -- of the line in the file, from 1
    start bigint NOT NULL,                       -- where it stands in the file, in bytes
    size integer NOT NULL,
    name bytea,                                  -- its custom_id, sealed; null where it has none
    state batch_line_state NOT NULL DEFAULT 'todo',
    begun integer NOT NULL DEFAULT 0,            -- calls begun that were not heard of again
    tries integer NOT NULL DEFAULT 0,            -- times it was given back; those given back less go first
    outages integer NOT NULL DEFAULT 0,          -- times it was given back because nobody answered
    answer bytea,                                -- sealed: the line of the output or error file
    PRIMARY KEY (batch, number)                  -- no other index: each line changes twice, and stays in its place so
) WITH (fillfactor = 70);
