CREATE TABLE tokens (token text CONSTRAINT tokens_pkey PRIMARY KEY);
