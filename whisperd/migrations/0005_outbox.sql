-- What the outside is to be told, or was told not long ago: a row for each end of a task and each address that
-- hears of it, written in the transaction that ends the task. It outlives the task: hence the snapshot.
create table outbox (
  seq        integer primary key autoincrement,
  id         text    not null unique,                  -- the webhook-id: the same at every attempt
  kind       text    not null check (kind in ('webhook', 'result')),
  event      text    not null,                         -- "task.completed"
  task       text    not null,                         -- its id
  tenant     text    not null,
  url        text    not null,
  place      text    not null,                         -- scheme, host and port of the url: what fails as one
  snapshot   text    not null,                         -- the task as it was then
  state      text    not null default 'waiting' check (state in ('waiting', 'delivered', 'dead')),
  attempts   integer not null default 0,
  created_at real    not null,
  due_at     real    not null,                         -- of the next attempt
  expires_at real    not null,                         -- what fails then is dead
  ended_at   real,
  status     integer,                                  -- of the last answer, if there was one
  problem    text,                                     -- of the last attempt
  check ((ended_at is null) = (state = 'waiting'))
) strict;

-- What is due, place by place; a step to the next place.
create index outbox_due on outbox (place, due_at) where state = 'waiting';
-- What has waited for more than its time.
create index outbox_expiry on outbox (expires_at) where state = 'waiting';
-- What waits for an address that is given up.
create index outbox_url on outbox (url) where state = 'waiting';
-- Lists by state.
create index outbox_state on outbox (state, seq);
-- Lists of a task's.
create index outbox_task on outbox (task, seq);
-- Retention.
create index outbox_ended on outbox (state, ended_at) where ended_at is not null;

-- The addresses that hear of every task. The settings' own, as they were at the last start or reload.
create table endpoint (
  url text primary key
) strict, without rowid;

-- Addresses that asked to be told nothing more (410).
create table gone (
  url text primary key,
  at  real not null
) strict, without rowid;
create index gone_age on gone (at);
