-- What redaction needs of a report, by itself: a report may have megabytes, and a transcript many of them.
create table hidden (
  task integer primary key references task (seq) on delete cascade,
  edit text,                                           -- as in detection
  what text not null                                   -- JSON: [places, rules_errors] of the report
) strict;
insert into hidden
  select task, edit, json_extract(report, '$.places', '$.rules_errors') from detection where report is not null;
