-- What schema 22 added: the trace of a task that is not over.
insert into trace select seq, '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01' from task where id = 't-queued';
