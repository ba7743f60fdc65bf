-- The waveform of a task's audio, made with its plan: at most 2,000 bytes, which only one call reads.
create table waveform (
  task  integer primary key references task (seq) on delete cascade,
  peaks blob    not null
) strict;
