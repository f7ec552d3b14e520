-- Batches as people look at them, and a line that has its answer is over for good.

CREATE VIEW batches_seen AS
SELECT b.id, b.project, b.key_id, b.endpoint, b.input_file, b.status, b.quiet_hours, b.metadata, b.paused, b.resume_at,
       b.errors, b.output_file, b.error_file, b.created_at, b.expires_at, b.in_progress_at, b.finalizing_at,
       b.cancelling_at, b.ended_at,
       coalesce(b.total, line.total, 0) AS total,        -- while it is open its lines are counted
       coalesce(b.done, line.done, 0) AS done,
       coalesce(b.failed, line.failed, 0) AS failed
  FROM batches b LEFT JOIN LATERAL (
       SELECT count(*) AS total, count(*) FILTER (WHERE state = 'done') AS done,
              count(*) FILTER (WHERE state = 'failed') AS failed
         FROM batch_lines WHERE batch = b.id) line ON b.total IS NULL;

ALTER TABLE batch_lines ADD CONSTRAINT batch_lines_over CHECK ((state IN ('done', 'failed')) = (answer IS NOT NULL));
