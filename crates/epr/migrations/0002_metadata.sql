-- Metadata with versions, relations, tasks that register many endpoints, and orderly deletion.

-- What ETags are made of. One sequence for all endpoints: an id that is registered anew does not repeat a tag.
CREATE SEQUENCE metadata_versions;

ALTER TABLE endpoints
    ALTER COLUMN metadata SET DEFAULT '{}',
    -- Rows that are there keep 0: a default that is computed would write the whole table anew.
    ADD COLUMN metadata_version bigint NOT NULL DEFAULT 0,
    ADD COLUMN endpoint_group text,
    -- Set from the order to delete on. Such a row has no registered_at, so that nobody sees it, and is kept until all
    -- that belongs to the endpoint is gone.
    ADD COLUMN deleted_at timestamptz,
    -- When somebody goes on with the deletion.
    ADD COLUMN deletion_due_at timestamptz;
ALTER TABLE endpoints ALTER COLUMN metadata_version SET DEFAULT nextval('metadata_versions');

-- Equality of a metadata value.
CREATE INDEX endpoints_metadata_idx ON endpoints USING gin (metadata jsonb_path_ops)
    WHERE registered_at IS NOT NULL;
-- Ids that are only reserved, to find those of what is gone.
CREATE INDEX endpoints_reserved_idx ON endpoints (tenant_id, application_name)
    WHERE registered_at IS NULL AND deleted_at IS NULL;
CREATE INDEX endpoints_deletion_idx ON endpoints (deletion_due_at) WHERE deleted_at IS NOT NULL;

-- Which metadata keys the endpoints of an application version have, and how many endpoints each.
CREATE TABLE metadata_keys (
    tenant_id text COLLATE "C" NOT NULL,
    application_name text COLLATE "C" NOT NULL,
    app_version_name text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    -- Endpoints are spread over 16 parts, so that two that change at once seldom wait for each other.
    part smallint NOT NULL,
    endpoints bigint NOT NULL,
    CONSTRAINT metadata_keys_pkey PRIMARY KEY (tenant_id, application_name, app_version_name, key, part)
);

-- Counts the keys that a statement took from endpoints and gave to them. In a trigger, so that no way to write an endpoint
-- can forget it; once for each statement, because one that writes many endpoints would otherwise write each count many
-- times. The counts are written in the order of the primary key: two statements never wait for each other crosswise.
CREATE FUNCTION count_metadata_keys() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    emptied tid[];
BEGIN
    WITH changed AS (
        INSERT INTO metadata_keys AS counted
            (tenant_id, application_name, app_version_name, key, part, endpoints)
        SELECT tenant_id, application_name, app_version_name, name, part, sum(change)
        FROM (
            SELECT *, (hashtext(endpoint_id) & 15)::smallint AS part, jsonb_object_keys(metadata) AS name
            FROM (
                SELECT endpoint_id, tenant_id, application_name, app_version_name, metadata, -1 AS change
                FROM was_there WHERE registered_at IS NOT NULL
                UNION ALL
                SELECT endpoint_id, tenant_id, application_name, app_version_name, metadata, 1
                FROM now_there WHERE registered_at IS NOT NULL
            ) AS written
        ) AS changes
        GROUP BY 1, 2, 3, 4, 5 HAVING sum(change) <> 0 ORDER BY 1, 2, 3, 4, 5
        ON CONFLICT ON CONSTRAINT metadata_keys_pkey DO UPDATE SET endpoints = counted.endpoints + excluded.endpoints
        RETURNING ctid AS place, endpoints
    )
    SELECT array_agg(place) FILTER (WHERE endpoints = 0) INTO emptied FROM changed;
    IF emptied IS NOT NULL THEN
        DELETE FROM metadata_keys WHERE ctid = ANY (emptied);
    END IF;
    RETURN NULL;
END
$$;

-- Endpoints come and go while they are not registered, so that only updates count.
CREATE TRIGGER endpoints_metadata_keys AFTER UPDATE ON endpoints
    REFERENCING OLD TABLE AS was_there NEW TABLE AS now_there
    FOR EACH STATEMENT EXECUTE FUNCTION count_metadata_keys();

INSERT INTO metadata_keys (tenant_id, application_name, app_version_name, key, part, endpoints)
SELECT tenant_id, application_name, app_version_name, name, (hashtext(endpoint_id) & 15)::smallint, count(*)
FROM endpoints, jsonb_object_keys(metadata) AS name
WHERE registered_at IS NOT NULL
GROUP BY 1, 2, 3, 4, 5;

-- `from` contains `to`.
CREATE TABLE endpoint_relations (
    tenant_id text COLLATE "C" NOT NULL,
    relation_type text COLLATE "C" NOT NULL,
    from_endpoint_id text COLLATE "C" NOT NULL,
    to_endpoint_id text COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT endpoint_relations_pkey PRIMARY KEY (from_endpoint_id, relation_type, to_endpoint_id)
);
CREATE INDEX endpoint_relations_to_idx ON endpoint_relations (to_endpoint_id, relation_type);

-- Endpoints that are gone: the event that says so is repeated for those who were away.
CREATE TABLE deleted_endpoints (
    endpoint_id text COLLATE "C" NOT NULL CONSTRAINT deleted_endpoints_pkey PRIMARY KEY,
    tenant_id text COLLATE "C" NOT NULL,
    application_name text COLLATE "C" NOT NULL,
    app_version_name text COLLATE "C" NOT NULL,
    deleted_at timestamptz NOT NULL,
    announced smallint NOT NULL DEFAULT 0,
    -- When it is announced again; null: never.
    announce_at timestamptz
);
CREATE INDEX deleted_endpoints_announce_idx ON deleted_endpoints (announce_at) WHERE announce_at IS NOT NULL;
CREATE INDEX deleted_endpoints_deleted_idx ON deleted_endpoints (deleted_at);

-- Applications and tenants that are gone, and whose endpoints go after them.
CREATE TABLE purges (
    tenant_id text COLLATE "C" NOT NULL,
    -- Empty: all applications of the tenant.
    application_name text COLLATE "C" NOT NULL,
    -- Endpoints that were made later belong to a namesake and stay.
    requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT purges_pkey PRIMARY KEY (tenant_id, application_name)
);

-- Orders to register many endpoints, worked off one by one.
CREATE TABLE batch_tasks (
    task_id uuid NOT NULL CONSTRAINT batch_tasks_pkey PRIMARY KEY,
    tenant_id text COLLATE "C" NOT NULL,
    application_name text COLLATE "C" NOT NULL,
    app_version_name text COLLATE "C" NOT NULL,
    -- Names the key that the tokens are encrypted under.
    key_id text COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    -- Until when a replica works on it.
    leased_until timestamptz NOT NULL DEFAULT '-infinity'
);
CREATE INDEX batch_tasks_open_idx ON batch_tasks (created_at) WHERE finished_at IS NULL;
CREATE INDEX batch_tasks_tenant_idx ON batch_tasks (tenant_id, created_at);
CREATE INDEX batch_tasks_created_idx ON batch_tasks (created_at);

CREATE TABLE batch_items (
    task_id uuid NOT NULL CONSTRAINT batch_items_task_fkey REFERENCES batch_tasks ON DELETE CASCADE,
    position integer NOT NULL,
    endpoint_id text COLLATE "C" NOT NULL,
    -- The token wished for, then the one made. Encrypted.
    token bytea,
    metadata jsonb NOT NULL,
    status text NOT NULL DEFAULT 'PENDING'
        CONSTRAINT batch_items_status_check CHECK (status IN ('PENDING', 'CREATED', 'FAILED')),
    status_reason text,
    CONSTRAINT batch_items_pkey PRIMARY KEY (task_id, position)
);
CREATE INDEX batch_items_pending_idx ON batch_items (task_id, position) WHERE status = 'PENDING';
