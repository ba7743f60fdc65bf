-- An alert quotes what was said: it goes with its transcript, and with the risk detection that found it.
create trigger transcript_takes_alerts before delete on task when old.kind = 'transcription' begin
  delete from outbox where event = 'risk.alert' and task in (select id from task where transcript = old.id);
end;
create trigger task_takes_alerts after delete on task when old.kind = 'risk_detection' begin
  delete from outbox where task = old.id and event = 'risk.alert';
end;
delete from outbox where event = 'risk.alert' and not exists (select 1 from task where id = outbox.task);
