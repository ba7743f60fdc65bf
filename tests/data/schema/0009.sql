-- What schema 9 added: where a transcript is written to, and that it still is to be.
update task set result_url = 's3://media/a.json' where id = 't-completed';
insert into outbox (id, kind, event, task, tenant, url, place, snapshot, created_at, due_at, expires_at)
values
  ('msg_result', 'result', 'task.completed', 't-completed', 'default', 's3://media/a.json', 's3://media',
   '{"seq":6,"id":"t-completed"}', 1040.5, 1040.5, 87440.5);
