-- How the transcript of a task is shown, "tag" or "mask", as it was submitted; null: as it is.
alter table task add column redact text;
