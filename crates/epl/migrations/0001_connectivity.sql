-- Who is connected where, and what of it is still to be told. Times are Unix time in ms, as in the events.

-- An endpoint that was heard of. Its row is locked by whoever changes anything of the endpoint, so that replicas of the
-- service take turns.
CREATE TABLE endpoints (
    endpoint_id text COLLATE "C" NOT NULL CONSTRAINT endpoints_pkey PRIMARY KEY,
    app_version_name text COLLATE "C" NOT NULL,
    -- The state that was told last, or is about to be; null: none yet.
    is_connected boolean,
    -- The time of the last transition. Grows with every transition.
    changed_ms bigint NOT NULL DEFAULT 0,
    -- Transitions so far: names what is told, so that it is known whether something newer has come since.
    transitions bigint NOT NULL DEFAULT 0,
    -- Whether the metadata are behind the state.
    metadata_pending boolean NOT NULL DEFAULT false,
    -- When the metadata may be written: nobody else is writing them, and a pause after a failure is over.
    metadata_free_at timestamptz NOT NULL DEFAULT '-infinity',
    metadata_attempts integer NOT NULL DEFAULT 0
) WITH (fillfactor = 80);
CREATE INDEX endpoints_metadata_idx ON endpoints (metadata_free_at) WHERE metadata_pending;

-- What a gateway replica said last of an endpoint. A row stays for a while after the endpoint has gone, so that what was
-- said before and comes later is known to be old.
CREATE TABLE presences (
    endpoint_id text COLLATE "C" NOT NULL,
    replica_id text COLLATE "C" NOT NULL,
    is_up boolean NOT NULL,
    -- When the gateway replica said it, by its own clock.
    event_ms bigint NOT NULL,
    -- When it was heard, by the clock of the database.
    heard_at timestamptz NOT NULL,
    CONSTRAINT presences_pkey PRIMARY KEY (endpoint_id, replica_id)
) WITH (fillfactor = 80);
CREATE INDEX presences_up_idx ON presences (replica_id, endpoint_id) WHERE is_up;
CREATE INDEX presences_down_idx ON presences (heard_at) WHERE NOT is_up;

-- When gateway replicas were last alive, by their own clocks.
CREATE TABLE gateways (
    replica_id text COLLATE "C" NOT NULL CONSTRAINT gateways_pkey PRIMARY KEY,
    alive_ms bigint NOT NULL,
    interval_ms bigint NOT NULL
);

-- Transitions that wait to be stored as points of time series.
CREATE TABLE points (
    point_id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT points_pkey PRIMARY KEY,
    endpoint_id text COLLATE "C" NOT NULL,
    app_version_name text COLLATE "C" NOT NULL,
    is_connected boolean NOT NULL,
    changed_ms bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    free_at timestamptz NOT NULL DEFAULT '-infinity',
    attempts integer NOT NULL DEFAULT 0
);
CREATE INDEX points_free_idx ON points (free_at, point_id);
CREATE INDEX points_endpoint_idx ON points (endpoint_id);
