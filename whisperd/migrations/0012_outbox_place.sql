-- When the first of what waits for a place is due: a look goes over what is due now, not over all places.
create table outbox_place (
  place  text not null primary key,
  due_at real not null
) strict, without rowid;
create index outbox_place_due on outbox_place (due_at);

insert into outbox_place select place, min(due_at) from outbox where state = 'waiting' group by place;

create trigger outbox_place_insert after insert on outbox when new.state = 'waiting' begin
  insert into outbox_place values (new.place, new.due_at)
    on conflict do update set due_at = excluded.due_at where excluded.due_at < due_at;
end;
create trigger outbox_place_update after update of state, due_at on outbox
when (old.state = 'waiting' or new.state = 'waiting') and (old.state <> new.state or old.due_at <> new.due_at)
begin
  delete from outbox_place where place = new.place;
  insert into outbox_place
    select place, due_at from outbox indexed by outbox_due
    where state = 'waiting' and place = new.place order by due_at limit 1;
end;
create trigger outbox_place_delete after delete on outbox when old.state = 'waiting' begin
  delete from outbox_place where place = old.place;
  insert into outbox_place
    select place, due_at from outbox indexed by outbox_due
    where state = 'waiting' and place = old.place order by due_at limit 1;
end;
