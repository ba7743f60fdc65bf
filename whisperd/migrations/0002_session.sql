-- How the last session with this file ended. While a daemon has it open, `clean` is 0 in the file itself and
-- not only in its -wal: so a copy of the file alone can be told from one that was closed.
create table session (
  id      integer primary key check (id = 1),
  clean   integer not null check (clean in (0, 1)),
  version text    not null,                            -- of the whisperd that opened it last
  commits integer not null default 0                   -- those that changed something: who has more knows more
) strict;
