-- What redaction needs of a report, by itself: a report may have megabytes, and a transcript many of them.
alter table detection add column hidden text;          -- JSON: [places, rules_errors] of the report
update detection set hidden = json_extract(report, '$.places', '$.rules_errors') where report is not null;
