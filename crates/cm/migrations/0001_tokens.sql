-- Endpoint tokens. Their text is nowhere: only a keyed hash of application and token, by which they are found.

CREATE TABLE tokens (
    token_id uuid NOT NULL CONSTRAINT tokens_pkey PRIMARY KEY,
    tenant_id text COLLATE "C" NOT NULL,
    application_name text COLLATE "C" NOT NULL,
    endpoint_id text COLLATE "C" NOT NULL,
    token_hash bytea NOT NULL CONSTRAINT tokens_hash_check CHECK (octet_length(token_hash) = 32),
    status text COLLATE "C" NOT NULL
        CONSTRAINT tokens_status_check CHECK (status IN ('Inactive', 'Active', 'Suspended', 'Revoked')),
    created_at timestamptz NOT NULL DEFAULT now(),
    -- When the status last changed.
    updated_at timestamptz,
    CONSTRAINT tokens_application_hash_key UNIQUE (application_name, token_hash)
);

CREATE INDEX tokens_endpoint_idx ON tokens (endpoint_id, created_at, token_id);
