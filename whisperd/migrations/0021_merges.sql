-- What is written of the index of words is merged by steps of their own (sql/search.py): its own merges, of 256 KB for
-- each level of it, came in the middle of a step and were six times as long. Past the index, which may be damaged.
insert or replace into search_config values ('automerge', 0);
