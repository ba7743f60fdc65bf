-- Risk detection. A task of that kind has no chunks and stands in no line of the workers (`waiting` is 0): it is handed
-- to the detector, in a line of its own, once there is something to look through.
alter table task add column transcript text;           -- the id of the transcription it looks through; null: what was sent
alter table task add column ready integer;             -- 0: that is not over yet; 1: it is, or nothing need be; null: no such task

-- The next one to be looked through.
create index task_detection on task (priority desc, seq) where ready = 1 and state = 'queued';
-- What looks through a transcript: all that wait for it, the newest that has something to say.
create index task_transcript on task (transcript, state, seq) where transcript is not null;

create table detection (
  task     integer primary key references task (seq) on delete cascade,
  asked    text    not null,                           -- JSON: what is looked for
  rules    text references rules (sha256),             -- that were sent with it
  segments text,                                       -- JSON: what was sent to be looked through; null: a transcript
  claims   integer not null default 0,                 -- the fencing token
  failures integer not null default 0,                 -- a release does not count
  report   text,                                       -- JSON: what was found
  edit     text                                        -- the token of the corrected transcript in which; null: the original
) strict;
create index detection_rules on detection (rules) where rules is not null;

-- Rules that were sent, each once however many tasks go by them.
create table rules (
  sha256 text primary key,
  source text not null                                 -- JSON
) strict;
create trigger rules_unused after delete on detection when old.rules is not null begin
  delete from rules where sha256 = old.rules and not exists (select 1 from detection where rules = old.rules);
end;

-- What was found quotes what was said: it goes with it. What is not over yet is told that there is nothing any more.
create trigger task_takes_findings after delete on task when old.kind = 'transcription' begin
  delete from task where transcript = old.id and +finished_at is not null;
end;
