-- What schema 24 added: a job of the shared queue, taken and not ended.
insert into job values ('t-processing', '17', 'a:b', 1);
