-- JSON columns carry no CHECK (json_valid(…)): trusted_schema = off refuses it in older SQLite versions.
create table task (
  seq             integer primary key autoincrement,  -- order of submission
  id              text    not null unique,            -- what the outside calls it
  kind            text    not null check (kind in ('transcription', 'risk_detection')),
  state           text    not null default 'queued'
                  check (state in ('queued', 'processing', 'completed', 'failed', 'cancelled')),
  priority        integer not null check (priority between -100 and 100),
  tenant          text    not null,
  model           text    not null,
  options         text    not null,
  audio_name      text    not null,
  audio_size      integer not null,
  audio_sha256    text    not null,
  audio_seconds   real,
  -- chunks to hand out, and chunks with a worker; both 0 once the task is over
  waiting         integer not null default 1 check (waiting >= 0),
  running         integer not null default 0 check (running >= 0),
  samples         integer not null default 0,          -- of all chunks, and of the finished ones
  samples_done    integer not null default 0,
  progress        real    not null default 0,
  attempt         integer not null default 1,
  max_retries     integer not null check (max_retries >= 0),
  timeout_seconds real,
  created_at      real    not null,
  run_at          real,                                -- null = in line; else it waits until then
  started_at      real,
  finished_at     real,
  fingerprint     text,                                -- of the plan its chunks belong to
  language        text,
  warnings        text    not null default '[]',
  error_code      text,
  error_message   text,
  metadata        text    not null default '{}',
  callback_url    text,
  check ((finished_at is null) = (state in ('queued', 'processing'))),
  check (state in ('queued', 'processing') or (waiting = 0 and running = 0 and run_at is null))
) strict;

-- The claim: the most urgent task that has a chunk to hand out. Position: those in line next to a given one.
create index task_line on task (priority, seq) where waiting > 0 and run_at is null;
-- The claim while a tenant is at its limit: the most urgent task of each other tenant.
create index task_tenant_line on task (tenant, priority, seq) where state = 'queued' and run_at is null;
-- The same: the most urgent task that is started and may go on.
create index task_started_line on task (priority, seq)
  where state = 'processing' and waiting > 0 and run_at is null;
-- Promotion of what was delayed, and the time of the next one.
create index task_delayed on task (run_at) where run_at is not null;
-- Lists by state, the oldest that waits.
create index task_state on task (state, seq);
-- Retention, throughput, recent waits.
create index task_finished on task (finished_at) where finished_at is not null;

create table chunk (
  task     integer not null references task (seq) on delete cascade,
  number   integer not null,                           -- 0 is the plan
  state    text    not null default 'waiting' check (state in ('waiting', 'running', 'done')),
  claims   integer not null default 0,                 -- the fencing token
  failures integer not null default 0,                 -- a release does not count
  beat_at  real             check ((beat_at is not null) = (state = 'running')),
  cut      text,
  samples  integer not null default 0,
  segments text,
  primary key (task, number)
) strict;

-- The next chunk of a claimed task.
create index chunk_waiting on chunk (task, number) where state = 'waiting';
-- The sweep: what stopped beating.
create index chunk_running on chunk (beat_at) where state = 'running';

create table idempotency (
  tenant      text not null,
  key         text not null,
  body_sha256 text not null,
  task        integer not null references task (seq) on delete cascade,
  created_at  real not null,
  primary key (tenant, key)
) strict, without rowid;
create index idempotency_task on idempotency (task);
create index idempotency_age on idempotency (created_at);

-- How many tasks there are, so that nobody has to count them. `delayed`: queued with a run_at.
-- No row stays at 0: a sum over the tenants of today must not pay for those of all time.
create table tally (
  state    text    not null,
  delayed  integer not null,
  tenant   text    not null,
  priority integer not null,
  n        integer not null check (n >= 0),
  primary key (state, delayed, tenant, priority)
) strict, without rowid;

create trigger tally_insert after insert on task begin
  insert into tally values (new.state, new.state = 'queued' and new.run_at is not null, new.tenant, new.priority, 1)
    on conflict do update set n = n + 1;
end;
create trigger tally_update after update of state, run_at, priority on task
when old.state <> new.state or (old.run_at is null) <> (new.run_at is null) or old.priority <> new.priority
begin
  update tally set n = n - 1
    where state = old.state and delayed = (old.state = 'queued' and old.run_at is not null)
      and tenant = old.tenant and priority = old.priority;
  delete from tally
    where state = old.state and delayed = (old.state = 'queued' and old.run_at is not null)
      and tenant = old.tenant and priority = old.priority and n = 0;
  insert into tally values (new.state, new.state = 'queued' and new.run_at is not null, new.tenant, new.priority, 1)
    on conflict do update set n = n + 1;
end;
create trigger tally_delete after delete on task begin
  update tally set n = n - 1
    where state = old.state and delayed = (old.state = 'queued' and old.run_at is not null)
      and tenant = old.tenant and priority = old.priority;
  delete from tally
    where state = old.state and delayed = (old.state = 'queued' and old.run_at is not null)
      and tenant = old.tenant and priority = old.priority and n = 0;
end;

-- How many tasks stand in line in each block of 128 (level 1) and 16,384 (level 2) seqs of a priority,
-- so that a position costs a few hundred index entries at a million tasks and not a million. Each statement
-- names its blocks one by one: `(level, block) in (values …)` would walk all blocks of the priority.
create table place (
  priority integer not null,
  level    integer not null check (level in (1, 2)),
  block    integer not null,
  n        integer not null check (n >= 0),
  primary key (priority, level, block)
) strict, without rowid;

create trigger place_insert after insert on task when new.state = 'queued' and new.run_at is null begin
  insert into place values (new.priority, 1, new.seq >> 7, 1), (new.priority, 2, new.seq >> 14, 1)
    on conflict do update set n = n + 1;
end;
create trigger place_leave after update of state, run_at, priority on task
when old.state = 'queued' and old.run_at is null
  and (new.state <> 'queued' or new.run_at is not null or new.priority <> old.priority)
begin
  insert into place values (old.priority, 1, old.seq >> 7, 0), (old.priority, 2, old.seq >> 14, 0)
    on conflict do update set n = n - 1;
  delete from place where priority = old.priority and level = 1 and block = old.seq >> 7 and n = 0;
  delete from place where priority = old.priority and level = 2 and block = old.seq >> 14 and n = 0;
end;
create trigger place_enter after update of state, run_at, priority on task
when new.state = 'queued' and new.run_at is null
  and (old.state <> 'queued' or old.run_at is not null or new.priority <> old.priority)
begin
  insert into place values (new.priority, 1, new.seq >> 7, 1), (new.priority, 2, new.seq >> 14, 1)
    on conflict do update set n = n + 1;
end;
create trigger place_delete after delete on task when old.state = 'queued' and old.run_at is null begin
  insert into place values (old.priority, 1, old.seq >> 7, 0), (old.priority, 2, old.seq >> 14, 0)
    on conflict do update set n = n - 1;
  delete from place where priority = old.priority and level = 1 and block = old.seq >> 7 and n = 0;
  delete from place where priority = old.priority and level = 2 and block = old.seq >> 14 and n = 0;
end;
