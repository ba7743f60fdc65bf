-- A wait between two attempts is a span of time: it moves with a clock that is set. A time that a user chose
-- does not. So `retry_at` tells them apart: it is `run_at` while that is our own wait, and null otherwise.
alter table task add column retry_at real check (retry_at is null or retry_at is run_at);
update task set retry_at = run_at where run_at is not null and error_code is not null;

-- Waits that move with the clock, or end too late after it was set back.
create index task_retry on task (retry_at) where retry_at is not null;
-- Started tasks with a limit, whose start moves with the clock.
create index task_timed on task (started_at)
  where timeout_seconds is not null and started_at is not null and finished_at is null;
-- Clearing: the oldest of a final state.
create index task_over on task (state, finished_at) where finished_at is not null;
