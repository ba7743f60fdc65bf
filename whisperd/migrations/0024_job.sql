-- The jobs of the shared queue that this host has taken, from then until the shared queue has been told how they
-- ended: what Redis could not be told while it was away is found here, after a restart too.
create table job (
  task  text    primary key references task (id) on delete cascade,
  id    text    not null,   -- in the shared queue
  token text    not null,   -- the proof that it is ours
  begun integer not null    -- how often it had been begun by then
) strict, without rowid;
