-- Endpoints: the digital twins of devices.

CREATE TABLE endpoints (
    endpoint_id text COLLATE "C" NOT NULL CONSTRAINT endpoints_pkey PRIMARY KEY,
    tenant_id text COLLATE "C" NOT NULL,
    application_name text COLLATE "C" NOT NULL,
    app_version_name text COLLATE "C" NOT NULL,
    app_version_registered_at timestamptz NOT NULL,
    metadata jsonb NOT NULL,
    metadata_updated_at timestamptz,
    created_at timestamptz NOT NULL,
    -- Set once the endpoint has its first token. Until then the row only reserves the id and nobody sees it.
    registered_at timestamptz,
    -- The registration that holds the reservation, and until when no other may take it over.
    registration_id uuid NOT NULL,
    reserved_until timestamptz NOT NULL
);

-- The lists of the REST interface, in their order.
CREATE INDEX endpoints_tenant_idx ON endpoints (tenant_id, created_at, endpoint_id)
    WHERE registered_at IS NOT NULL;
CREATE INDEX endpoints_application_idx ON endpoints (tenant_id, application_name, created_at, endpoint_id)
    WHERE registered_at IS NOT NULL;
CREATE INDEX endpoints_app_version_idx ON endpoints (tenant_id, app_version_name, created_at, endpoint_id)
    WHERE registered_at IS NOT NULL;
