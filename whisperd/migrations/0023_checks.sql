-- A check of a state against a list of more than two makes a table of that list at each row that is written, which
-- takes as long as to write a chunk. The same checks as comparisons. Nothing that is stored changes, so that the
-- tables need not be written anew: https://sqlite.org/lang_altertable.html, section 7.
pragma writable_schema = on;
update sqlite_schema set sql = replace(sql,
  'state in (''queued'', ''processing'', ''completed'', ''failed'', ''cancelled'')',
  'state = ''queued'' or state = ''processing'' or state = ''completed'' or state = ''failed'' or state = ''cancelled'''
) where type = 'table' and name = 'task';
update sqlite_schema set sql = replace(sql,
  'state in (''waiting'', ''running'', ''done'')',
  'state = ''waiting'' or state = ''running'' or state = ''done'''
) where type = 'table' and name = 'chunk';
pragma writable_schema = reset;
