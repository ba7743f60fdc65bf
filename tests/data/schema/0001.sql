-- A task in every state that schema 1 knew, with its chunks, as the queue left them.
insert into task (id, kind, state, priority, tenant, model, options, audio_name, audio_size, audio_sha256, audio_seconds,
                  waiting, running, samples, samples_done, progress, attempt, max_retries, timeout_seconds,
                  created_at, run_at, started_at, finished_at, fingerprint, language, warnings,
                  error_code, error_message, metadata, callback_url)
values
  ('t-queued', 'transcription', 'queued', 0, 'default', 'tiny.en', '{"language":"en"}', 'a.wav', 10, 'aa', null,
   1, 0, 0, 0, 0, 1, 3, null,
   1000.5, null, null, null, null, null, '[]', null, null, '{"call":"é 😀"}', 'http://localhost/hook'),
  ('t-urgent', 'transcription', 'queued', 100, 'clinic', 'tiny.en', '{}', 'b.wav', 10, 'bb', null,
   1, 0, 0, 0, 0, 1, 3, 60.0,
   1001.5, null, null, null, null, null, '[]', null, null, '{}', null),
  ('t-delayed', 'risk_detection', 'queued', -100, 'default', 'tiny.en', '{}', 'c.wav', 10, 'cc', null,
   1, 0, 0, 0, 0, 1, 3, null,
   1002.5, 9000000000.0, null, null, null, null, '[]', null, null, '{}', null),
  ('t-again', 'transcription', 'queued', 0, 'default', 'tiny.en', '{}', 'd.wav', 10, 'dd', 30.0,
   1, 0, 480000, 240000, 0.5, 2, 3, null,
   1003.5, 1100.5, 1010.5, null, 'f1', 'en', '[]', 'worker_crashed', 'child 812 exited with -9', '{}', null),
  ('t-processing', 'transcription', 'processing', 0, 'default', 'tiny.en', '{}', 'e.wav', 10, 'ee', 60.0,
   1, 1, 960000, 320000, 0.33, 1, 3, 600.0,
   1004.5, null, 1020.5, null, 'f2', 'en', '["partial_audio"]', null, null, '{}', null),
  ('t-completed', 'transcription', 'completed', 0, 'default', 'tiny.en', '{}', 'f.wav', 10, 'ff', 20.0,
   0, 0, 320000, 320000, 1, 1, 3, null,
   1005.5, null, 1030.5, 1040.5, 'f3', 'en', '[]', null, null, '{}', null),
  ('t-failed', 'transcription', 'failed', 5, 'clinic', 'tiny.en', '{}', 'g.wav', 10, 'gg', null,
   0, 0, 0, 0, 0, 4, 3, null,
   1006.5, null, 1031.5, 1041.5, null, null, '[]', 'no_audio', 'there is no audio in it', '{}', null),
  ('t-cancelled', 'transcription', 'cancelled', 0, 'default', 'tiny.en', '{}', 'h.wav', 10, 'hh', null,
   0, 0, 0, 0, 0, 1, 3, null,
   1007.5, null, null, 1042.5, null, null, '[]', null, null, '{}', null);

insert into chunk (task, number, state, claims, failures, beat_at, cut, samples, segments)
select seq, 0, 'waiting', 0, 0, null, null, 0, null from task
  where id in ('t-queued', 't-urgent', 't-delayed', 't-failed', 't-cancelled')
union all select seq, 0, 'done', 1, 0, null, null, 0, null from task
  where id in ('t-again', 't-processing', 't-completed')
union all select seq, 1, 'done', 1, 0, null, '{"pieces":[[0,240000]]}', 240000,
    '[{"start":0.0,"end":2.0,"text":"first"}]' from task where id in ('t-again', 't-processing', 't-completed')
union all select seq, 2, 'waiting', 1, 1, null, '{"pieces":[[240000,480000]]}', 240000, null from task where id = 't-again'
union all select seq, 2, 'running', 3, 0, 1050.5, '{"pieces":[[320000,640000]]}', 320000, null from task
  where id = 't-processing'
union all select seq, 3, 'waiting', 0, 0, null, '{"pieces":[[640000,960000]]}', 320000, null from task
  where id = 't-processing';

insert into idempotency (tenant, key, body_sha256, task, created_at)
select tenant, 'key-' || id, 'hash', seq, created_at from task where id in ('t-queued', 't-urgent', 't-completed');
