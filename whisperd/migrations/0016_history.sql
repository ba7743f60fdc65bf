-- How it went, minute by minute, for the charts of a week. A minute in which nothing waited, ran or ended has no
-- row, so that an idle daemon writes nothing.
create table history (
  at              integer primary key,                 -- Unix seconds, of a whole minute
  queued          integer not null,                    -- at its end, as `processing`
  processing      integer not null,
  completed       integer not null,                    -- in it, as `failed`
  failed          integer not null,
  audio_seconds   real    not null,                    -- of what was completed, without what was copied from twins
  compute_seconds real    not null,                    -- that took
  busy            real    not null,                    -- of the workers, 0 to 1, at its end
  wait_p50        real,                                -- of the tasks that ended last; null if none did in it
  wait_p95        real,
  rss_bytes       integer,                             -- of the daemon and its workers
  gpu_bytes       integer,
  free_bytes      integer                              -- of the disk with the spool
) strict;
