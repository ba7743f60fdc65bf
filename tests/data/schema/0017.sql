-- What schema 17 added: the waveform of a task.
insert into waveform select seq, x'00ff' from task where id = 't-completed';
