-- Where the transcript of a task is written to once it is completed: s3://bucket/key.
alter table task add column result_url text;

-- Whether the transcript of a task is still to be written: until then it is kept.
create index outbox_result on outbox (task) where kind = 'result' and state = 'waiting';
