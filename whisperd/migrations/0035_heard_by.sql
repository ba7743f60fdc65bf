-- The engine and the model file that the chunks of its plan have to be transcribed with, as engine and SHA-256;
-- null: it has no plan, or one of a whisperd that did not write this.
alter table task add column heard_by text;
