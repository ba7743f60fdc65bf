-- What schema 5 added: what the outside is to be told of tasks that are over, and to whom.
insert into endpoint values ('https://hooks.example/all');
insert into gone values ('https://gone.example/', 1043.5);
insert into outbox (id, kind, event, task, tenant, url, place, snapshot, state, attempts, created_at, due_at, expires_at,
                    ended_at, status, problem)
values
  ('msg_waiting', 'webhook', 'task.failed', 't-failed', 'clinic', 'https://hooks.example/all', 'https://hooks.example',
   '{"seq":7,"id":"t-failed"}', 'waiting', 2, 1041.5, 1060.5, 87441.5, null, 500, 'it answered 500'),
  ('msg_delivered', 'webhook', 'task.completed', 't-completed', 'default', 'http://localhost/hook', 'http://localhost',
   '{"seq":6,"id":"t-completed"}', 'delivered', 1, 1040.5, 1040.5, 87440.5, 1041.0, 204, null),
  ('msg_dead', 'webhook', 'task.cancelled', 't-gone', 'default', 'https://gone.example/', 'https://gone.example',
   '{"seq":9,"id":"t-gone"}', 'dead', 1, 1042.5, 1042.5, 87442.5, 1043.5, 410, 'the address wants no more (410)');
