-- Items of a foreach that are due next, found without looking at the others.
CREATE INDEX runs_queued ON runs (parent, parent_path, parent_attempt, item) WHERE status = 'queued';
CREATE INDEX runs_under_way ON runs (parent) WHERE parent IS NOT NULL
    AND status IN ('queued', 'pending', 'running', 'waiting', 'parked', 'failed', 'dead');
