-- What schema 27 added: what Redis is told again.
insert into submitted values ('t-shared', '{"task_id": "t-shared"}', '{"priority": 11}', 'a-server');
update job set hash = '{"name": "transcription"}', server = 'a-server';
