-- Whoever deletes a run looks for those it had started, which are over too: no narrower index has them.
CREATE INDEX runs_parent ON runs (parent) WHERE parent IS NOT NULL;
