-- What looks for risk takes no worker, and so no place of a transcription: neither of those that may run nor of those
-- that may wait. `delayed` of the tally is 3 for it, in every state; the rest is as it was.
update tally set n = tally.n - look.n from (
  select state, iif(state <> 'queued', 0, iif(run_at is not null, 1, 2 * (waiting = 0))) as delayed, tenant, priority,
    count(*) as n
  from task where kind = 'risk_detection' group by 1, 2, 3, 4
) as look
where tally.state = look.state and tally.delayed = look.delayed and tally.tenant = look.tenant
  and tally.priority = look.priority;
delete from tally where n = 0;
insert into tally
  select state, 3, tenant, priority, count(*) from task where kind = 'risk_detection' group by state, tenant, priority;

drop trigger tally_insert;
create trigger tally_insert after insert on task begin
  insert into tally values (new.state, iif(new.kind = 'risk_detection', 3, iif(new.state <> 'queued', 0, iif(new.run_at is not null, 1, 2 * (new.waiting = 0)))), new.tenant, new.priority, 1)
    on conflict do update set n = n + 1;
end;
drop trigger tally_update;
create trigger tally_update after update of state, run_at, priority, waiting on task
when old.state <> new.state or old.priority <> new.priority or (new.state = 'queued'
  and ((old.run_at is null) <> (new.run_at is null) or (old.waiting = 0) <> (new.waiting = 0)))
begin
  update tally set n = n - 1
    where state = old.state and delayed = iif(old.kind = 'risk_detection', 3, iif(old.state <> 'queued', 0, iif(old.run_at is not null, 1, 2 * (old.waiting = 0))))
      and tenant = old.tenant and priority = old.priority;
  delete from tally
    where state = old.state and delayed = iif(old.kind = 'risk_detection', 3, iif(old.state <> 'queued', 0, iif(old.run_at is not null, 1, 2 * (old.waiting = 0))))
      and tenant = old.tenant and priority = old.priority and n = 0;
  insert into tally values (new.state, iif(new.kind = 'risk_detection', 3, iif(new.state <> 'queued', 0, iif(new.run_at is not null, 1, 2 * (new.waiting = 0)))), new.tenant, new.priority, 1)
    on conflict do update set n = n + 1;
end;
drop trigger tally_delete;
create trigger tally_delete after delete on task begin
  update tally set n = n - 1
    where state = old.state and delayed = iif(old.kind = 'risk_detection', 3, iif(old.state <> 'queued', 0, iif(old.run_at is not null, 1, 2 * (old.waiting = 0))))
      and tenant = old.tenant and priority = old.priority;
  delete from tally
    where state = old.state and delayed = iif(old.kind = 'risk_detection', 3, iif(old.state <> 'queued', 0, iif(old.run_at is not null, 1, 2 * (old.waiting = 0))))
      and tenant = old.tenant and priority = old.priority and n = 0;
end;
