-- What schema 19 added: a corrected transcript.
insert into edit select seq, 'a1b2', '[{"start":0.0,"end":1.0,"text":"hello, dear"}]' from task where id = 't-completed';
