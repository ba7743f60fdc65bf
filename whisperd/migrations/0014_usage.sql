-- What the tasks of a tenant came to, by day (UTC) and model: written in the transaction that ends a task, and
-- kept after it. Each end counts, so a task that is run again by hand counts again.
create table usage (
  tenant          text    not null,
  day             text    not null,                    -- "2026-11-28"
  model           text    not null,
  audio_seconds   real    not null,                    -- of completed tasks
  compute_seconds real    not null,                    -- of all, failed attempts included
  completed       integer not null,
  failed          integer not null,
  cancelled       integer not null,
  primary key (tenant, day, model)
) strict, without rowid;

-- All tenants in some days; retention.
create index usage_day on usage (day);
