-- Transcripts that a person has corrected; the original stays in the chunks. `token` is of this edit alone: who
-- writes the next one has to have seen it.
create table edit (
  task     integer primary key references task (seq) on delete cascade,
  token    text    not null,
  segments text    not null
) strict;

-- The search finds what is read.
create trigger search_edit_insert after insert on edit begin
  insert into unsearched values (new.task) on conflict do nothing;
end;
create trigger search_edit_delete after delete on edit begin
  insert into unsearched values (old.task) on conflict do nothing;
end;
