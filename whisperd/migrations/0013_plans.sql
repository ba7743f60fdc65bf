-- The plans of tenants that have no task any more: from now on they go with the last one.
delete from tenant where not exists (select 1 from task where task.tenant = tenant.name);
