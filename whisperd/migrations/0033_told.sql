-- Places of findings that were told of are seconds, no more characters: those are others once the transcript is
-- corrected, or made anew. What is in there is of calls that run now, and may be told of once more.
drop table told;
create table told (
  task  integer not null references task (seq) on delete cascade,
  rule  text    not null,
  speaker text  not null,                              -- empty: nobody in particular
  begin real    not null,                              -- seconds of the audio: [begin, past)
  past  real    not null,
  primary key (task, rule, speaker, begin)
) strict, without rowid;
