-- What is said in tasks, and what their audio is called, by words. Beside the text: where its lines start in the
-- audio, in seconds. `tenant`: one made-up word, so that a tenant's tasks are found without a look at all others.
create virtual table search using fts5(
  name, text, tenant, starts unindexed,
  tokenize = 'unicode61 remove_diacritics 2', columnsize = 0
);
insert into search (search, rank) values ('automerge', 8);  -- its merges are shorter: no transaction takes long

-- All words of it.
create virtual table word using fts5vocab(search, row);

-- Tasks whose entry is to be made, made anew or removed: noted in the transaction that changes them, done soon after.
create table unsearched (
  task integer primary key
) strict;
insert into unsearched select seq from task;

create trigger search_insert after insert on task begin
  insert into unsearched values (new.seq) on conflict do nothing;
end;
create trigger search_complete after update of state on task
when new.state = 'completed' and old.state <> 'completed' begin
  insert into unsearched values (new.seq) on conflict do nothing;
end;
create trigger search_delete after delete on task begin
  delete from unsearched where task = old.seq;
  insert into unsearched select old.seq where exists (select 1 from search_content where id = old.seq);
end;
