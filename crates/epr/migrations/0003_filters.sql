-- Filters: queries over the endpoints of an application, and which endpoints match.

CREATE TABLE endpoint_filters (
    filter_id uuid NOT NULL CONSTRAINT endpoint_filters_pkey PRIMARY KEY,
    tenant_id text COLLATE "C" NOT NULL,
    application_name text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    description text,
    -- As it was sent: an object, or a text that holds one.
    mongo_query json NOT NULL,
    -- DELETED: nobody sees it, and the row goes once its matches are gone.
    status text NOT NULL
        CONSTRAINT endpoint_filters_status_check CHECK (status IN ('PENDING', 'ACTIVE', 'DELETED')),
    -- Counts the changes of what was sent.
    version bigint NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- When it first was active: from then on others may know of its endpoints.
    activated_at timestamptz,
    -- While PENDING: the last endpoint that has been looked at, in the order of the list of endpoints.
    looked_at_created_at timestamptz,
    looked_at_endpoint_id text COLLATE "C",
    -- Whose turn it is, among those that are not ACTIVE.
    worked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- How many endpoints are looked at in one transaction, once more of them took too long.
    step_endpoints bigint
);
CREATE UNIQUE INDEX endpoint_filters_name_key ON endpoint_filters (tenant_id, application_name, name)
    WHERE status <> 'DELETED';
CREATE INDEX endpoint_filters_work_idx ON endpoint_filters (worked_at) WHERE status <> 'ACTIVE';

-- Changes with each change of the filters of an application, and names their state for ever. Without a row there is no filter.
CREATE TABLE endpoint_filter_sets (
    tenant_id text COLLATE "C" NOT NULL,
    application_name text COLLATE "C" NOT NULL,
    revision uuid NOT NULL,
    CONSTRAINT endpoint_filter_sets_pkey PRIMARY KEY (tenant_id, application_name)
);

-- No foreign keys: a filter may have a million rows here, which go in parts, and each write would lock the filter's row.
CREATE TABLE endpoint_filter_matches (
    filter_id uuid NOT NULL,
    endpoint_id text COLLATE "C" NOT NULL,
    CONSTRAINT endpoint_filter_matches_pkey PRIMARY KEY (filter_id, endpoint_id)
);
CREATE INDEX endpoint_filter_matches_endpoint_idx ON endpoint_filter_matches (endpoint_id, filter_id);

-- How many endpoints match: the sum over the parts. Endpoints are spread over parts 0 to 15, so that two that change at once
-- seldom wait for each other; part 16 is for those who match many endpoints at once. One part may be negative.
CREATE TABLE endpoint_filter_counts (
    filter_id uuid NOT NULL,
    part smallint NOT NULL,
    endpoints bigint NOT NULL,
    CONSTRAINT endpoint_filter_counts_pkey PRIMARY KEY (filter_id, part)
);
