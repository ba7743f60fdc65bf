-- What a Redis that has lost its data is told again: of a job at work here its hash, as it was when it was taken,
-- and which server it was taken from. "": of one that was taken before this was known.
alter table job add column hash text not null default '';
alter table job add column server text not null default '';

-- What was submitted here to the shared queue, until it is over. A handful, or as many as wait for hosts.
create table submitted (
  id      text primary key,   -- of the job and of its task
  data    text not null,      -- of the job, and
  options text not null,      -- how it is added
  server  text not null       -- the Redis that has acknowledged it
) strict, without rowid;
