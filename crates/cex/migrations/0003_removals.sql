-- Tenants that are gone, until everything of theirs is removed: their end is told once.
CREATE TABLE tenants_to_remove (
    tenant_id text COLLATE "C" CONSTRAINT tenants_to_remove_pkey PRIMARY KEY,
    noted_at timestamptz NOT NULL DEFAULT now()
);
