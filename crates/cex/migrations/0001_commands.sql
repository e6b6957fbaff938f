-- The ledger: every command from its invocation to its end, and every state that it reached.

-- The commands of one type for one endpoint. They take their ids and are pushed one after the other, so whoever does either
-- locks this row. The lane with the empty type stands for all types of the endpoint: it only says whether new lanes are pushed to.
CREATE TABLE lanes (
    tenant_id text COLLATE "C" NOT NULL,
    endpoint_id text COLLATE "C" NOT NULL,
    command_type text COLLATE "C" NOT NULL,
    application_name text COLLATE "C" NOT NULL,
    -- The id that was given last; ids begin with 1 and are never given twice.
    last_command_id integer NOT NULL DEFAULT 0,
    -- False: the device asked not to be pushed to (11/CEP: observe).
    is_pushed boolean NOT NULL DEFAULT true,
    -- The topic outside of 1/KP where the device listens; null: it speaks 1/KP.
    topic text COLLATE "C",
    -- When there is something to push; null: when a command comes or the device connects.
    due_at timestamptz,
    -- Who pushes now holds the lease with this number; after its end, or when it is null, anybody may push.
    lease bigint NOT NULL DEFAULT 0,
    leased_at timestamptz,
    leased_until timestamptz,
    CONSTRAINT lanes_pkey PRIMARY KEY (tenant_id, endpoint_id, command_type)
) WITH (fillfactor = 80);
CREATE INDEX lanes_due_idx ON lanes (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX lanes_endpoint_idx ON lanes (endpoint_id);

-- A command that was invoked on many endpoints at once.
CREATE TABLE batches (
    batch_key bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT batches_pkey PRIMARY KEY,
    task_id uuid NOT NULL CONSTRAINT batches_task_id_key UNIQUE,
    tenant_id text COLLATE "C" NOT NULL,
    application_name text COLLATE "C" NOT NULL,
    command_type text COLLATE "C" NOT NULL,
    -- Null: the endpoints were listed.
    filter_id text COLLATE "C",
    payload bytea,
    payload_is_text boolean NOT NULL DEFAULT false,
    -- Null: each is tried once.
    ttl_ms bigint,
    -- Commands a second; null: as fast as it goes.
    rate_per_second integer,
    -- Aborted when more than so many percent of the commands that ended have failed; null: never.
    abort_failed_percent integer,
    -- RUNNING, COMPLETED, ABORTED or CANCELLED.
    state text COLLATE "C" NOT NULL DEFAULT 'RUNNING',
    reason text,
    total integer NOT NULL,
    -- When it is worked on next. Whoever does holds the row's lock for as long.
    due_at timestamptz NOT NULL DEFAULT now(),
    response_topic text COLLATE "C",
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    -- When the last of its commands had ended, and what was counted then: commands are not kept for ever.
    ended_at timestamptz,
    executed_count integer,
    expired_count integer
);
CREATE INDEX batches_application_idx ON batches (tenant_id, application_name, created_at);
CREATE INDEX batches_open_idx ON batches (due_at) WHERE ended_at IS NULL;

-- The endpoints of a batch whose command has not been invoked.
CREATE TABLE batch_targets (
    batch_key bigint NOT NULL CONSTRAINT batch_targets_batch_fkey REFERENCES batches ON DELETE CASCADE,
    ordinal integer NOT NULL,
    endpoint_id text COLLATE "C" NOT NULL,
    -- Why it never will be; null: it is still to be invoked.
    reason text,
    CONSTRAINT batch_targets_pkey PRIMARY KEY (batch_key, ordinal)
);
CREATE INDEX batch_targets_endpoint_idx ON batch_targets (endpoint_id) WHERE reason IS NULL;

CREATE TABLE commands (
    command_key bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT commands_pkey PRIMARY KEY,
    tenant_id text COLLATE "C" NOT NULL,
    application_name text COLLATE "C" NOT NULL,
    endpoint_id text COLLATE "C" NOT NULL,
    command_type text COLLATE "C" NOT NULL,
    command_id integer NOT NULL,
    -- CREATED, SENT, DELIVERED; final: EXECUTED, UNDELIVERED, EXPIRED, CANCELLED.
    state text COLLATE "C" NOT NULL,
    payload bytea,
    payload_is_text boolean NOT NULL DEFAULT false,
    -- TTL 0: one attempt, no second.
    is_once boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    -- When the last attempt began.
    attempted_at timestamptz,
    -- Until then an attempt that was begun may still deliver it, whatever becomes of us.
    attempt_until timestamptz,
    -- When it may be pushed again.
    next_attempt_at timestamptz NOT NULL DEFAULT now(),
    -- Pauses between attempts since it was invoked or delivered or its endpoint connected: each is twice the one before.
    pauses integer NOT NULL DEFAULT 0,
    -- Pushes in a row that may have reached the device and were not acknowledged.
    unacknowledged integer NOT NULL DEFAULT 0,
    delivered_at timestamptz,
    -- Why it is to be cancelled as soon as no attempt can deliver it any more; null: it is not.
    cancel_reason text,
    status_code integer,
    reason_phrase text,
    result bytea,
    result_is_text boolean NOT NULL DEFAULT false,
    -- The first result that came after the end: {statusCode, reasonPhrase, payload, receivedAt}. Not jsonb, which refuses \u0000.
    late_result json,
    batch_key bigint CONSTRAINT commands_batch_fkey REFERENCES batches ON DELETE CASCADE,
    -- Where the application that invoked it over a topic hears of the result.
    response_topic text COLLATE "C",
    CONSTRAINT commands_id_key UNIQUE (tenant_id, endpoint_id, command_type, command_id)
) WITH (fillfactor = 80);
CREATE INDEX commands_outstanding_idx ON commands (tenant_id, endpoint_id, command_type, command_id)
    WHERE state IN ('CREATED', 'SENT', 'DELIVERED');
CREATE INDEX commands_expiry_idx ON commands (expires_at) WHERE state IN ('CREATED', 'SENT', 'DELIVERED');
-- Not by attempt_until: an attempt begins without a change to any index.
CREATE INDEX commands_cancel_idx ON commands (command_key)
    WHERE cancel_reason IS NOT NULL AND state IN ('CREATED', 'SENT', 'DELIVERED');
-- Not the tenant first: while the tables are new the planner would take this index for commands_id_key, and each look-up of
-- one command would read all of its tenant.
CREATE INDEX commands_application_idx ON commands (application_name, tenant_id, created_at, command_key);
CREATE INDEX commands_ended_idx ON commands (updated_at) WHERE state IN ('EXECUTED', 'UNDELIVERED', 'EXPIRED', 'CANCELLED');
CREATE INDEX commands_batch_idx ON commands (batch_key, endpoint_id) INCLUDE (state) WHERE batch_key IS NOT NULL;

-- The states that commands reached. The transaction's number tells readers of the feed which rows may still get
-- predecessors: those of transactions that have not ended.
CREATE TABLE transitions (
    transition_key bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT transitions_pkey PRIMARY KEY,
    xact_id xid8 NOT NULL DEFAULT pg_current_xact_id(),
    command_key bigint NOT NULL CONSTRAINT transitions_command_fkey REFERENCES commands ON DELETE CASCADE,
    tenant_id text COLLATE "C" NOT NULL,
    application_name text COLLATE "C" NOT NULL,
    state text COLLATE "C" NOT NULL,
    reason text,
    at timestamptz NOT NULL
);
CREATE INDEX transitions_command_idx ON transitions (command_key);
CREATE INDEX transitions_feed_idx ON transitions (tenant_id, application_name, xact_id, transition_key);

-- Endpoints that connected and disconnected, for the feed.
CREATE TABLE connectivity (
    connectivity_key bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT connectivity_pkey PRIMARY KEY,
    xact_id xid8 NOT NULL DEFAULT pg_current_xact_id(),
    tenant_id text COLLATE "C" NOT NULL,
    application_name text COLLATE "C" NOT NULL,
    endpoint_id text COLLATE "C" NOT NULL,
    is_connected boolean NOT NULL,
    at timestamptz NOT NULL
);
CREATE INDEX connectivity_feed_idx ON connectivity (tenant_id, application_name, xact_id, connectivity_key);
CREATE INDEX connectivity_at_idx ON connectivity (at);

-- Up to which transaction the feed of an application has been purged: whoever goes on from before may have missed something.
CREATE TABLE feed_floors (
    tenant_id text COLLATE "C" NOT NULL,
    application_name text COLLATE "C" NOT NULL,
    xact_id xid8 NOT NULL,
    CONSTRAINT feed_floors_pkey PRIMARY KEY (tenant_id, application_name)
);

-- What was invoked under a key of the caller's, so that a repetition finds it.
CREATE TABLE idempotency_keys (
    tenant_id text COLLATE "C" NOT NULL,
    idempotency_key text COLLATE "C" NOT NULL,
    -- SHA-256 of the request: the same key with another request is a mistake.
    digest bytea NOT NULL,
    command_key bigint CONSTRAINT idempotency_keys_command_fkey REFERENCES commands ON DELETE CASCADE,
    batch_key bigint CONSTRAINT idempotency_keys_batch_fkey REFERENCES batches ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT idempotency_keys_pkey PRIMARY KEY (tenant_id, idempotency_key)
);
CREATE INDEX idempotency_keys_command_idx ON idempotency_keys (command_key);
CREATE INDEX idempotency_keys_batch_idx ON idempotency_keys (batch_key);
