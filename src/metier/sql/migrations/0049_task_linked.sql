-- Who made a link to a task for whom is an event of the task.
ALTER TYPE task_event ADD VALUE 'linked';
