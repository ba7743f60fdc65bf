-- What schema 8 added: a tenant with a plan, shares that differ, and a clock that was set.
insert into tenant values ('clinic', 'PRO');
update share set vtime = 42.5 where tenant = 'clinic';
insert into level values (-100, 42.5), (100, 0.5);
update line_clock set shift = -600.0;
