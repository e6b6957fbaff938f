CREATE TABLE samples (id bigint CONSTRAINT samples_pkey PRIMARY KEY, text text CONSTRAINT samples_text_key UNIQUE);
