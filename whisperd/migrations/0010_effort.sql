-- When a chunk was done, by which worker and in how many seconds; null where nobody measured it, and in a copy.
alter table chunk add column finished_at real;
alter table chunk add column worker integer;
alter table chunk add column seconds real;

-- Of all work on a task since it was submitted or retried by hand, failed attempts included.
alter table task add column compute_seconds real not null default 0;
