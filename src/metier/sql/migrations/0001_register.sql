-- The register of AI uses. No system in pilot or general use, no call.
CREATE TABLE systems (
    id          text PRIMARY KEY,
    name        text NOT NULL UNIQUE,
    purpose     text NOT NULL CHECK (purpose <> ''),
    owner       text NOT NULL CHECK (owner <> ''),
    status      text NOT NULL DEFAULT 'idea' CHECK (status IN (
        'idea',       -- written down; its owner moves it on
        'qualified',  -- value, risk and alternatives were looked at; an approver moved it here
        'pilot',      -- admitted for a limited public; calls pass
        'general',    -- admitted for everyone meant by its purpose; calls pass
        'suspended',  -- stopped by anyone responsible; calls are refused until approved again
        'retired'     -- over for good; nothing moves it from here
    )),
    created_at  timestamptz NOT NULL DEFAULT now(),
    changed_at  timestamptz NOT NULL DEFAULT now()
);

-- Who moved a system from one status to another, when and why; rows are only ever added.
CREATE TABLE approvals (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    system      text NOT NULL REFERENCES systems (id),
    old_status  text,             -- null: the system was registered
    new_status  text NOT NULL,
    by_whom     text NOT NULL CHECK (by_whom <> ''),
    reason      text NOT NULL DEFAULT '',
    at          timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX approvals_by_system ON approvals (system, id);
