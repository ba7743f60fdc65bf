-- Findings that were told of while their call was still running: nobody is told twice.
create table told (
  task  integer not null references task (seq) on delete cascade,
  rule  text    not null,
  begin integer not null,                              -- characters of the transcript: [begin, past)
  past  integer not null,
  primary key (task, rule, begin)
) strict, without rowid;
