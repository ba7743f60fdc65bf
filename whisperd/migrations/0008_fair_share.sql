-- Plans of tenants, fair shares between tenants of one priority, and the age of what waits in line.

-- The plan that a tenant's last submission named. It has no row before it named one.
create table tenant (
  name text not null primary key,
  plan text not null
) strict, without rowid;

-- What a tenant has to hand out at a priority, and its share so far: start-time fair queueing, in seconds of
-- audio. Who has least `vtime` is next. Who comes back starts where the level is, so idling earns nothing; a
-- row that has nothing to hand out stays until the level has passed it (prune), so coming back pays nothing.
create table share (
  priority integer not null,
  tenant   text    not null,
  offered  integer not null check (offered >= 0),      -- tasks with a chunk to hand out,
  started  integer not null check (started between 0 and offered),  -- and those of them that are started
  vtime    real    not null,                           -- seconds of audio it was given, by its weight
  primary key (priority, tenant)
) strict, without rowid;

-- The claim: whose turn it is, at the highest priority that has anything.
create index share_turn on share (priority desc, vtime, tenant) where offered > 0;

-- Where a tenant starts that comes to a priority: about where the one is that was served last.
create table level (
  priority integer not null primary key,
  vtime    real    not null
) strict;

-- What the claim of a chunk cost its tenant's share, and at which priority; a release gives it back.
alter table chunk add column charge real not null default 0;
alter table chunk add column charged_at integer;

-- The clock of the line stands behind the wall clock by `shift`, which moves when that is set: so the age of all
-- that waits moves with one row.
create table line_clock (
  id    integer primary key check (id = 1),
  shift real not null
) strict;
insert into line_clock values (1, 0.0);

-- Since when a task waits in line, by the line's clock. A wait between two attempts does not make it younger.
alter table task add column lined_at real not null default 0;
update task set lined_at = created_at where finished_at is null;

-- The claim: the newest or oldest of a tenant's tasks at a priority, of all or of what is started.
drop index task_line;
drop index task_tenant_line;
drop index task_started_line;
create index task_line on task (tenant, priority, state, seq) where waiting > 0 and run_at is null;
-- The same: what has waited longest.
create index task_age on task (tenant, priority, state, lined_at) where waiting > 0 and run_at is null;

insert into share
  select priority, tenant, count(*), sum(state = 'processing'), 0.0 from task
  where waiting > 0 and run_at is null group by priority, tenant;

create trigger share_insert after insert on task when new.waiting > 0 and new.run_at is null begin
  insert into share values (
    new.priority, new.tenant, 1, new.state = 'processing',
    coalesce((select vtime from level where priority = new.priority), 0.0)
  )
  on conflict do update set
    vtime = iif(offered = 0, max(vtime, excluded.vtime), vtime),
    offered = offered + 1, started = started + excluded.started;
end;
create trigger share_enter after update of state, run_at, priority, waiting on task
when new.waiting > 0 and new.run_at is null
  and (old.waiting = 0 or old.run_at is not null or old.priority <> new.priority)
begin
  insert into share values (
    new.priority, new.tenant, 1, new.state = 'processing',
    coalesce((select vtime from level where priority = new.priority), 0.0)
  )
  on conflict do update set
    vtime = iif(offered = 0, max(vtime, excluded.vtime), vtime),
    offered = offered + 1, started = started + excluded.started;
end;
create trigger share_leave after update of state, run_at, priority, waiting on task
when old.waiting > 0 and old.run_at is null
  and (new.waiting = 0 or new.run_at is not null or new.priority <> old.priority)
begin
  update share set offered = offered - 1, started = started - (old.state = 'processing')
    where priority = old.priority and tenant = old.tenant;
end;
create trigger share_start after update of state on task
when old.state <> new.state and old.waiting > 0 and old.run_at is null
  and new.waiting > 0 and new.run_at is null and new.priority = old.priority
begin
  update share set started = started + (new.state = 'processing') - (old.state = 'processing')
    where priority = old.priority and tenant = old.tenant;
end;
create trigger share_delete after delete on task when old.waiting > 0 and old.run_at is null begin
  update share set offered = offered - 1, started = started - (old.state = 'processing')
    where priority = old.priority and tenant = old.tenant;
end;
