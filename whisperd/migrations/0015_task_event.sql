-- What happened to a task, beside what its row and those of its chunks say by themselves: rare things only, and
-- only the newest of them (sql/timeline.py).
create table task_event (
  task   integer not null references task (seq) on delete cascade,
  n      integer not null,                             -- from 1 on: what is older is gone
  at     real    not null,
  detail text    not null,                             -- JSON: the rest of a Moment
  primary key (task, n)
) strict, without rowid;
