-- Who may command and who is commanded over topics outside of 1/KP.

-- Names of endpoints in topics, `cmd/<thing>/req`.
CREATE TABLE things (
    tenant_id text COLLATE "C" NOT NULL,
    thing_name text COLLATE "C" NOT NULL,
    endpoint_id text COLLATE "C" NOT NULL,
    application_name text COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT things_pkey PRIMARY KEY (tenant_id, thing_name)
);
CREATE INDEX things_endpoint_idx ON things (endpoint_id);

-- Client credentials (ccm) with which a client is the thing. One client is one thing.
CREATE TABLE thing_credentials (
    tenant_id text COLLATE "C" NOT NULL,
    credentials_id text COLLATE "C" NOT NULL,
    thing_name text COLLATE "C" NOT NULL,
    CONSTRAINT thing_credentials_pkey PRIMARY KEY (tenant_id, credentials_id),
    CONSTRAINT thing_credentials_thing_fkey FOREIGN KEY (tenant_id, thing_name) REFERENCES things ON DELETE CASCADE
);
CREATE INDEX thing_credentials_thing_idx ON thing_credentials (tenant_id, thing_name);

-- Client credentials with which an application may command.
CREATE TABLE commanders (
    tenant_id text COLLATE "C" NOT NULL,
    credentials_id text COLLATE "C" NOT NULL,
    -- Null: all applications of the tenant.
    application_names text[],
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT commanders_pkey PRIMARY KEY (tenant_id, credentials_id)
);

-- Names of endpoint filters in topics, `<group>/request`.
CREATE TABLE groups (
    tenant_id text COLLATE "C" NOT NULL,
    group_name text COLLATE "C" NOT NULL,
    filter_id text COLLATE "C" NOT NULL,
    application_name text COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT groups_pkey PRIMARY KEY (tenant_id, group_name)
);

-- What clients published lately, so that a message that is sent again, because its acknowledgement was lost, is known.
CREATE TABLE publications (
    tenant_id text COLLATE "C" NOT NULL,
    credentials_id text COLLATE "C" NOT NULL,
    client_id text COLLATE "C" NOT NULL,
    -- `packet:<packet id>`, or `correlation:<SHA-256 of digest and MQTT 5 correlation data>`.
    slot text COLLATE "C" NOT NULL,
    -- SHA-256 of topic and payload.
    digest bytea NOT NULL,
    -- Of a command: the key under which it was invoked.
    idempotency_key text COLLATE "C",
    -- Of a result: the command that it is of.
    command_id integer,
    -- What the answers to a command are to carry.
    correlation_data bytea,
    published_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT publications_pkey PRIMARY KEY (tenant_id, credentials_id, client_id, slot)
);
CREATE INDEX publications_key_idx ON publications (tenant_id, idempotency_key) WHERE correlation_data IS NOT NULL;
CREATE INDEX publications_age_idx ON publications (published_at);

-- Results that are still to be told on the topic where they are awaited.
CREATE TABLE responses (
    response_key bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT responses_pkey PRIMARY KEY,
    tenant_id text COLLATE "C" NOT NULL,
    topic text COLLATE "C" NOT NULL,
    payload bytea NOT NULL,
    -- The command whose result it is; it may be gone.
    command_key bigint,
    created_at timestamptz NOT NULL DEFAULT now(),
    attempts integer NOT NULL DEFAULT 0,
    -- Who tells it now holds the lease with this number; after its end anybody may.
    lease bigint NOT NULL DEFAULT 0,
    leased_until timestamptz NOT NULL DEFAULT '-infinity',
    -- Null: only when somebody subscribes.
    due_at timestamptz DEFAULT now()
);
CREATE INDEX responses_due_idx ON responses (tenant_id, topic) WHERE due_at IS NOT NULL;
CREATE INDEX responses_topic_idx ON responses (tenant_id, topic, response_key);
CREATE INDEX responses_age_idx ON responses (created_at);
