-- Lists of one kind, and of one kind of a tenant. Only of the rarer one: the other is found by the indexes of all tasks,
-- of which a page passes over few. Where there are none of it they cost nothing.
create index task_risk on task (state, seq) where kind = 'risk_detection';
create index task_tenant_risk on task (tenant, state, seq) where kind = 'risk_detection';
