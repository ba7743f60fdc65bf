-- The trace that a task belongs to, as a W3C traceparent, from a submission while tracing is on until its spans
-- are sent: only then is anything written here.
create table trace (
  task   integer primary key references task (seq) on delete cascade,
  parent text    not null
) strict;
