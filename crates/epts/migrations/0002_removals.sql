-- Endpoints and applications that are gone, and whose points go after them. How and why: the README of this crate.

-- Endpoints are removed by their ids alone.
CREATE INDEX series_endpoint_idx ON series (endpoint_id);

-- When the points of a series were removed. The row itself stays a while longer, because replicas remember its id; a new
-- point takes the mark away.
ALTER TABLE series ADD COLUMN removed_at timestamptz;
CREATE INDEX series_removed_idx ON series (removed_at) WHERE removed_at IS NOT NULL;

-- What is to be removed.
CREATE TABLE removals (
    -- `endpoint` (any tenant's: the id is unique) or `application`.
    kind         text NOT NULL CONSTRAINT removals_kind_check CHECK (kind IN ('endpoint', 'application')),
    -- Of an application; empty for an endpoint.
    tenant_id    text NOT NULL,
    name         text NOT NULL,
    requested_at timestamptz NOT NULL DEFAULT now(),
    -- When somebody goes on with it.
    due_at       timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT removals_pkey PRIMARY KEY (kind, tenant_id, name)
);
CREATE INDEX removals_due_idx ON removals (due_at);
