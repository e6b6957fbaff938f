-- Applications, their versions, and the configuration of other services for them.

CREATE TABLE applications (
    name text COLLATE "C" NOT NULL CONSTRAINT applications_pkey PRIMARY KEY,
    tenant_id text COLLATE "C" NOT NULL,
    display_name text,
    description text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX applications_tenant_idx ON applications (tenant_id, created_at, name);

CREATE TABLE app_versions (
    name text COLLATE "C" NOT NULL CONSTRAINT app_versions_pkey PRIMARY KEY,
    tenant_id text COLLATE "C" NOT NULL,
    application_name text COLLATE "C" NOT NULL
        CONSTRAINT app_versions_application_fkey REFERENCES applications (name) ON DELETE CASCADE,
    suffix text COLLATE "C" NOT NULL,
    display_name text,
    description text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX app_versions_application_idx ON app_versions (application_name, created_at, name);

-- One block for each service instance: at application level (app_version_name is '') and at version level.
-- The type json, not jsonb, keeps a block as it was sent; nothing queries into it.
CREATE TABLE service_configs (
    tenant_id text COLLATE "C" NOT NULL,
    application_name text COLLATE "C" NOT NULL
        CONSTRAINT service_configs_application_fkey REFERENCES applications (name) ON DELETE CASCADE,
    app_version_name text COLLATE "C" NOT NULL,
    service_instance_name text COLLATE "C" NOT NULL,
    block json NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT service_configs_pkey PRIMARY KEY (application_name, app_version_name, service_instance_name)
);
