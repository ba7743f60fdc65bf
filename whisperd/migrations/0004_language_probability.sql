-- How sure the vote about the language was, 0 to 1; null where there was none.
alter table task add column language_probability real check (language_probability between 0 and 1);
