-- From which of several queues a job was taken; "": from the one for what no route fits.
alter table job add column queue text not null default '';
