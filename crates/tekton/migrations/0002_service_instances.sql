-- Service instances and the schemas of their configuration, configuration of tenants, deletions that are told more than once.

ALTER TABLE applications
    ADD COLUMN application_group text,
    -- The highest number of a version `v<n>` that was deleted: a new version never gets the name of an old one.
    ADD COLUMN deleted_version_number bigint NOT NULL DEFAULT 0;

-- Services of the field map `-` and `_` to one character: names that differ only there would meet.
CREATE UNIQUE INDEX applications_name_alike_key ON applications (translate(name, '_', '-'));

-- What service instances say of themselves, as they sent it: one row each, for all tenants.
CREATE TABLE service_instances (
    name text COLLATE "C" NOT NULL CONSTRAINT service_instances_pkey PRIMARY KEY,
    description json NOT NULL,
    announced_at timestamptz NOT NULL DEFAULT now()
);

-- One block for each service instance at the level of the tenant.
CREATE TABLE tenant_configs (
    tenant_id text COLLATE "C" NOT NULL,
    service_instance_name text COLLATE "C" NOT NULL,
    block json NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT tenant_configs_pkey PRIMARY KEY (tenant_id, service_instance_name)
);

-- Applications (the version name is '') and versions that were deleted. Consumers that were away are told again, and no
-- name is used anew while somebody may still hear that it was deleted.
CREATE TABLE deletions (
    application_name text COLLATE "C" NOT NULL,
    app_version_name text COLLATE "C" NOT NULL,
    tenant_id text COLLATE "C" NOT NULL,
    deleted_at timestamptz NOT NULL DEFAULT now(),
    announcements integer NOT NULL DEFAULT 0,
    -- None: everybody has been told often enough.
    next_announcement_at timestamptz,
    CONSTRAINT deletions_pkey PRIMARY KEY (application_name, app_version_name)
);

CREATE INDEX deletions_due_idx ON deletions (next_announcement_at) WHERE next_announcement_at IS NOT NULL;
CREATE INDEX deletions_age_idx ON deletions (deleted_at);
