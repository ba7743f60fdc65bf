-- What schema 2 added, besides the rows of schema 1: a session that was not closed in order.
insert into session (id, clean, version) values (1, 0, '0.1.0');
