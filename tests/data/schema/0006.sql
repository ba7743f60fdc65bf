-- What schema 6 added: a task that leads, and one that follows it.
insert into task (id, kind, state, priority, tenant, model, options, audio_name, audio_size, audio_sha256,
                  max_retries, created_at, content)
values ('t-leads', 'transcription', 'queued', -100, 'clinic', 'tiny.en', '{}', 'i.wav', 10, 'ii', 3, 1008.5, 'cc');
insert into task (id, kind, state, priority, tenant, model, options, audio_name, audio_size, audio_sha256,
                  max_retries, created_at, content, leader)
select 't-follows', 'transcription', 'queued', -100, 'clinic', 'tiny.en', '{}', 'j.wav', 10, 'ii', 3, 1009.5, 'cc', seq
  from task where id = 't-leads';
insert into chunk (task, number) select seq, 0 from task where id in ('t-leads', 't-follows');
