-- What a tenant may see: lists of its tasks, the oldest that waits, its last waits.
create index task_tenant on task (tenant, state, seq);
