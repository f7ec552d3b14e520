-- Which model was chosen for a call that left it open, and what a classifier said: `small; label=easy; confidence=0.93`.
ALTER TABLE calls ADD COLUMN route text;
