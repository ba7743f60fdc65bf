-- Duplicate work. Tasks of one tenant that must get the same transcript (`content`: audio, model, options) are
-- decoded once. One of them leads: only its chunks are handed out. The others follow: each holds a place in line
-- for it, by its own priority and age, while it has something to hand out (`waiting` is then 1, else 0).
alter table task add column content text;              -- SHA-256; null: is the twin of none
alter table task add column leader integer references task (seq)
  check (leader is null or (state = 'queued' and run_at is null));

-- The one that leads. Unique: what is the same is never handed out twice. `run_at is retry_at`: it stands in line, or
-- waits for its next attempt; what somebody delayed by hand neither leads nor follows until then.
create unique index task_leads on task (tenant, content)
  where content is not null and leader is null and finished_at is null and run_at is retry_at;
-- The newest that is completed.
create index task_done on task (tenant, content, finished_at) where content is not null and state = 'completed';
-- Who follows a task.
create index task_follows on task (leader, seq) where leader is not null;

create trigger task_has_more after update of waiting, run_at on task
when (old.waiting > 0 and old.run_at is null) <> (new.waiting > 0 and new.run_at is null)
begin
  update task set waiting = (new.waiting > 0 and new.run_at is null) where leader = new.seq;
end;

-- In line is now what is queued, without a run_at, and has something to hand out: who follows a leader that has not
-- stands nowhere. `delayed` of the tally: 0 in line (or not queued), 1 has a run_at, 2 follows such a leader.
drop index task_tenant_line;
create index task_tenant_line on task (tenant, priority, seq)
  where state = 'queued' and waiting > 0 and run_at is null;

drop trigger tally_insert;
create trigger tally_insert after insert on task begin
  insert into tally values (new.state, iif(new.state <> 'queued', 0, iif(new.run_at is not null, 1, 2 * (new.waiting = 0))), new.tenant, new.priority, 1)
    on conflict do update set n = n + 1;
end;
drop trigger tally_update;
create trigger tally_update after update of state, run_at, priority, waiting on task
when old.state <> new.state or old.priority <> new.priority or (new.state = 'queued'
  and ((old.run_at is null) <> (new.run_at is null) or (old.waiting = 0) <> (new.waiting = 0)))
begin
  update tally set n = n - 1
    where state = old.state and delayed = iif(old.state <> 'queued', 0, iif(old.run_at is not null, 1, 2 * (old.waiting = 0)))
      and tenant = old.tenant and priority = old.priority;
  delete from tally
    where state = old.state and delayed = iif(old.state <> 'queued', 0, iif(old.run_at is not null, 1, 2 * (old.waiting = 0)))
      and tenant = old.tenant and priority = old.priority and n = 0;
  insert into tally values (new.state, iif(new.state <> 'queued', 0, iif(new.run_at is not null, 1, 2 * (new.waiting = 0))), new.tenant, new.priority, 1)
    on conflict do update set n = n + 1;
end;
drop trigger tally_delete;
create trigger tally_delete after delete on task begin
  update tally set n = n - 1
    where state = old.state and delayed = iif(old.state <> 'queued', 0, iif(old.run_at is not null, 1, 2 * (old.waiting = 0)))
      and tenant = old.tenant and priority = old.priority;
  delete from tally
    where state = old.state and delayed = iif(old.state <> 'queued', 0, iif(old.run_at is not null, 1, 2 * (old.waiting = 0)))
      and tenant = old.tenant and priority = old.priority and n = 0;
end;

drop trigger place_insert;
create trigger place_insert after insert on task
when new.state = 'queued' and new.run_at is null and new.waiting > 0 begin
  insert into place values (new.priority, 1, new.seq >> 7, 1), (new.priority, 2, new.seq >> 14, 1)
    on conflict do update set n = n + 1;
end;
drop trigger place_leave;
create trigger place_leave after update of state, run_at, priority, waiting on task
when old.state = 'queued' and old.run_at is null and old.waiting > 0
  and (new.state <> 'queued' or new.run_at is not null or new.waiting = 0 or new.priority <> old.priority)
begin
  insert into place values (old.priority, 1, old.seq >> 7, 0), (old.priority, 2, old.seq >> 14, 0)
    on conflict do update set n = n - 1;
  delete from place where priority = old.priority and level = 1 and block = old.seq >> 7 and n = 0;
  delete from place where priority = old.priority and level = 2 and block = old.seq >> 14 and n = 0;
end;
drop trigger place_enter;
create trigger place_enter after update of state, run_at, priority, waiting on task
when new.state = 'queued' and new.run_at is null and new.waiting > 0
  and (old.state <> 'queued' or old.run_at is not null or old.waiting = 0 or old.priority <> new.priority)
begin
  insert into place values (new.priority, 1, new.seq >> 7, 1), (new.priority, 2, new.seq >> 14, 1)
    on conflict do update set n = n + 1;
end;
drop trigger place_delete;
create trigger place_delete after delete on task
when old.state = 'queued' and old.run_at is null and old.waiting > 0 begin
  insert into place values (old.priority, 1, old.seq >> 7, 0), (old.priority, 2, old.seq >> 14, 0)
    on conflict do update set n = n - 1;
  delete from place where priority = old.priority and level = 1 and block = old.seq >> 7 and n = 0;
  delete from place where priority = old.priority and level = 2 and block = old.seq >> 14 and n = 0;
end;
