-- The next one to be looked through: within a priority tenants take turns, so that nobody waits behind a backlog of another.
drop index task_detection;
create index task_detection on task (priority desc, tenant, seq) where ready = 1 and state = 'queued';
