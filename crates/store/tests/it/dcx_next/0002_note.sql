ALTER TABLE samples ADD COLUMN note text;
