-- Endpoint time series. Why the tables look like this, with measurements: the README of this crate.

CREATE TABLE series (
    series_id        bigint GENERATED ALWAYS AS IDENTITY,
    tenant_id        text NOT NULL,
    application_name text NOT NULL,
    endpoint_id      text NOT NULL,
    name             text NOT NULL,
    CONSTRAINT series_pkey PRIMARY KEY (series_id),
    -- The writer looks up all series of an endpoint at once.
    CONSTRAINT series_key UNIQUE (tenant_id, application_name, endpoint_id, name)
);

-- Queries name series and often want them of all endpoints.
CREATE INDEX series_name_idx ON series (tenant_id, application_name, name, endpoint_id);

-- A single number called `value` is in `number`; anything else, a null included, is in `values`, name to value.
-- No foreign key to `series`: it would cost a lookup for each row, and a series is never removed.
CREATE TABLE point (
    series_id bigint NOT NULL,
    ts        timestamptz NOT NULL,
    number    double precision,
    "values"  jsonb,
    -- With the number in the index most reads need not touch the table, whose rows lie in order of arrival.
    CONSTRAINT point_pkey PRIMARY KEY (series_id, ts) INCLUDE (number),
    CONSTRAINT point_number_or_values_check CHECK ((number IS NULL) <> ("values" IS NULL))
) PARTITION BY RANGE (ts);
