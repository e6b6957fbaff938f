-- Client credentials. No password and no private key is here in the clear: passwords are hashed under a key that is not
-- in the database, private keys of authorities are encrypted under it, and those of clients are not kept at all.

-- What a tenant has: the counters behind its limits. Whoever adds or removes rows below locks the tenant's row first.
CREATE TABLE tenants (
    tenant_id text COLLATE "C" NOT NULL CONSTRAINT tenants_pkey PRIMARY KEY,
    basic_credentials bigint NOT NULL DEFAULT 0 CONSTRAINT tenants_basic_check CHECK (basic_credentials >= 0),
    x509_credentials bigint NOT NULL DEFAULT 0 CONSTRAINT tenants_x509_check CHECK (x509_credentials >= 0),
    authorities bigint NOT NULL DEFAULT 0 CONSTRAINT tenants_authorities_check CHECK (authorities >= 0)
);

CREATE TABLE basic_credentials (
    credentials_id uuid NOT NULL CONSTRAINT basic_credentials_pkey PRIMARY KEY,
    tenant_id text COLLATE "C" NOT NULL,
    username text COLLATE "C" NOT NULL,
    scheme text COLLATE "C" NOT NULL
        CONSTRAINT basic_credentials_scheme_check CHECK (scheme IN ('argon2id', 'hmac-sha256')),
    -- A PHC string, or the HMAC in base64.
    password_hash text COLLATE "C" NOT NULL,
    state text COLLATE "C" NOT NULL
        CONSTRAINT basic_credentials_state_check CHECK (state IN ('Inactive', 'Active', 'Suspended', 'Revoked')),
    created_at timestamptz NOT NULL DEFAULT now(),
    -- When the state or the password last changed.
    updated_at timestamptz NOT NULL DEFAULT now(),
    last_use_at timestamptz,
    CONSTRAINT basic_credentials_username_key UNIQUE (tenant_id, username)
);

CREATE INDEX basic_credentials_tenant_idx ON basic_credentials (tenant_id, credentials_id);

-- The root of all authorities of our own.
CREATE TABLE platform_authority (
    single boolean NOT NULL DEFAULT true CONSTRAINT platform_authority_pkey PRIMARY KEY
        CONSTRAINT platform_authority_single_check CHECK (single),
    authority_id uuid NOT NULL,
    -- DER.
    certificate bytea NOT NULL,
    -- AES-256-GCM: nonce, then PKCS#8 encrypted with the authority's id as associated data.
    private_key bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE authorities (
    authority_id uuid NOT NULL CONSTRAINT authorities_pkey PRIMARY KEY,
    tenant_id text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL CONSTRAINT authorities_kind_check CHECK (kind IN ('Own', 'Foreign')),
    -- In the words of 22/CAP's issuer. Unique over all tenants, because a request there holds only issuer and serial number.
    subject text COLLATE "C" NOT NULL,
    -- DER.
    certificate bytea NOT NULL,
    -- As in platform_authority; only own authorities have one.
    private_key bytea,
    not_before timestamptz NOT NULL,
    not_after timestamptz NOT NULL,
    state text COLLATE "C" NOT NULL
        CONSTRAINT authorities_state_check CHECK (state IN ('Active', 'Suspended', 'Revoked')),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT authorities_subject_key UNIQUE (subject),
    CONSTRAINT authorities_key_check CHECK ((kind = 'Own') = (private_key IS NOT NULL))
);

CREATE INDEX authorities_tenant_idx ON authorities (tenant_id, authority_id);

CREATE TABLE x509_credentials (
    credentials_id uuid NOT NULL CONSTRAINT x509_credentials_pkey PRIMARY KEY,
    tenant_id text COLLATE "C" NOT NULL,
    -- None when the authority was deleted; what it issued stays refused.
    authority_id uuid CONSTRAINT x509_credentials_authority_fkey REFERENCES authorities ON DELETE SET NULL,
    issuer text COLLATE "C" NOT NULL,
    -- In decimal.
    serial_number text COLLATE "C" NOT NULL,
    -- What a foreign authority issued is known by issuer and serial number only.
    common_name text COLLATE "C",
    not_before timestamptz,
    not_after timestamptz,
    -- DER.
    certificate bytea,
    state text COLLATE "C" NOT NULL
        CONSTRAINT x509_credentials_state_check CHECK (state IN ('Inactive', 'Active', 'Suspended', 'Revoked')),
    created_at timestamptz NOT NULL DEFAULT now(),
    -- When the state last changed.
    updated_at timestamptz NOT NULL DEFAULT now(),
    last_use_at timestamptz,
    CONSTRAINT x509_credentials_serial_key UNIQUE (tenant_id, issuer, serial_number)
);

CREATE INDEX x509_credentials_tenant_idx ON x509_credentials (tenant_id, credentials_id);
CREATE INDEX x509_credentials_authority_idx ON x509_credentials (authority_id);

-- Events that are still to be sent: written with the change that they tell of, removed when they were sent. So a process
-- that dies between the two leaves no session alive.
CREATE TABLE announcements (
    announcement_id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT announcements_pkey PRIMARY KEY,
    kind text COLLATE "C" NOT NULL
        CONSTRAINT announcements_kind_check CHECK (kind IN ('basic', 'certificate', 'authorities')),
    tenant_id text COLLATE "C" NOT NULL,
    -- None for authorities.
    credentials_id uuid,
    correlation_id text COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
