-- Tokens that became useless and of which not everybody has surely heard: written in the transaction that makes them so,
-- deleted when the event has come back from NATS.
CREATE TABLE revocations (
    revocation_id uuid NOT NULL CONSTRAINT revocations_pkey PRIMARY KEY,
    correlation_id text NOT NULL,
    application_name text COLLATE "C" NOT NULL,
    endpoint_id text COLLATE "C" NOT NULL,
    token_ids uuid[] NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    -- When the event is published again, unless it has come back by then.
    due_at timestamptz NOT NULL
);

CREATE INDEX revocations_due_idx ON revocations (due_at);

-- Tenants that were unregistered, until all their tokens are gone.
CREATE TABLE tenant_removals (
    tenant_id text COLLATE "C" NOT NULL CONSTRAINT tenant_removals_pkey PRIMARY KEY,
    -- Tokens that were made by then go.
    made_until timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX tokens_tenant_idx ON tokens (tenant_id);
