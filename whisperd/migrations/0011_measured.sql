-- How long work took of late, for a forecast: the last few hundred measurements of each kind, see forecast/speeds.py.
-- Written once a minute while there are new ones, so that no chunk has to pay for it.
create table measured (
  kind    text    not null check (kind in ('chunk', 'plan', 'speech', 'length')),
  of      text    not null,                            -- a model; of a length the suffix of a file's name
  device  text    not null,
  threads integer not null,
  pairs   text    not null,                            -- JSON: size and seconds, the oldest first
  at      real    not null,
  primary key (kind, of, device, threads)
) strict, without rowid;
