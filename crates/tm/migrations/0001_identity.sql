-- Tenants, those who may call in their name, and the keys that sign their tokens. No secret is here in the clear:
-- passwords are Argon2id hashes, API keys and refresh tokens SHA-256 digests, signing keys encrypted.

CREATE TABLE tenants (
    tenant_id text COLLATE "C" NOT NULL CONSTRAINT tenants_pkey PRIMARY KEY,
    name text NOT NULL,
    enabled boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    -- The row stays for ever: an id that is given a second time would open to its new owner whatever other services
    -- still keep of the first.
    deleted_at timestamptz,
    -- When the other services were told of the deletion.
    unregistered_at timestamptz
);

CREATE INDEX tenants_unannounced_idx ON tenants (tenant_id) WHERE deleted_at IS NOT NULL AND unregistered_at IS NULL;

CREATE TABLE users (
    user_id uuid NOT NULL CONSTRAINT users_pkey PRIMARY KEY,
    tenant_id text COLLATE "C" NOT NULL CONSTRAINT users_tenant_fkey REFERENCES tenants,
    username text NOT NULL,
    -- The user name in lower case, by which it is found and unique.
    username_folded text COLLATE "C" NOT NULL,
    name text NOT NULL,
    -- In the whole tenant.
    role text COLLATE "C" CONSTRAINT users_role_check CHECK (role IN ('viewer', 'operator', 'admin')),
    enabled boolean NOT NULL DEFAULT true,
    -- In the PHC format, which holds algorithm, costs and salt.
    password_hash text NOT NULL,
    -- Access tokens that carry another one are refused: raised when the password changes or the user is disabled.
    token_version integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    last_login_at timestamptz,
    CONSTRAINT users_username_key UNIQUE (tenant_id, username_folded)
);

CREATE TABLE user_grants (
    user_id uuid NOT NULL CONSTRAINT user_grants_user_fkey REFERENCES users ON DELETE CASCADE,
    application_name text COLLATE "C" NOT NULL,
    role text COLLATE "C" NOT NULL CONSTRAINT user_grants_role_check CHECK (role IN ('viewer', 'operator', 'admin')),
    CONSTRAINT user_grants_pkey PRIMARY KEY (user_id, application_name)
);

CREATE VIEW users_with_grants AS
    SELECT user_id, tenant_id, username, username_folded, name, role, enabled, token_version, created_at, updated_at,
        last_login_at,
        (SELECT coalesce(jsonb_object_agg(g.application_name, g.role), '{}') FROM user_grants g
         WHERE g.user_id = u.user_id) AS grants
    FROM users u;

CREATE TABLE api_keys (
    key_id text COLLATE "C" NOT NULL CONSTRAINT api_keys_pkey PRIMARY KEY,
    tenant_id text COLLATE "C" NOT NULL CONSTRAINT api_keys_tenant_fkey REFERENCES tenants,
    name text NOT NULL,
    role text COLLATE "C" CONSTRAINT api_keys_role_check CHECK (role IN ('viewer', 'operator', 'admin')),
    -- SHA-256 of the whole key, which has enough random bits that no slower hash is needed.
    key_hash bytea NOT NULL CONSTRAINT api_keys_hash_check CHECK (octet_length(key_hash) = 32),
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text NOT NULL,
    expires_at timestamptz,
    -- To the minute.
    last_used_at timestamptz,
    revoked_at timestamptz,
    CONSTRAINT api_keys_hash_key UNIQUE (key_hash)
);

CREATE INDEX api_keys_tenant_idx ON api_keys (tenant_id, created_at, key_id);

CREATE TABLE api_key_grants (
    key_id text COLLATE "C" NOT NULL CONSTRAINT api_key_grants_key_fkey REFERENCES api_keys ON DELETE CASCADE,
    application_name text COLLATE "C" NOT NULL,
    role text COLLATE "C" NOT NULL CONSTRAINT api_key_grants_role_check CHECK (role IN ('viewer', 'operator', 'admin')),
    CONSTRAINT api_key_grants_pkey PRIMARY KEY (key_id, application_name)
);

CREATE VIEW api_keys_with_grants AS
    SELECT key_id, tenant_id, name, role, key_hash, created_at, created_by, expires_at, last_used_at, revoked_at,
        (SELECT coalesce(jsonb_object_agg(g.application_name, g.role), '{}') FROM api_key_grants g
         WHERE g.key_id = k.key_id) AS grants
    FROM api_keys k;

CREATE TABLE signing_keys (
    kid text COLLATE "C" NOT NULL CONSTRAINT signing_keys_pkey PRIMARY KEY,
    algorithm text COLLATE "C" NOT NULL,
    public_jwk json NOT NULL,
    -- PKCS #8, encrypted with AES-256-GCM under tm.key_encryption_key: nonce, ciphertext, tag.
    private_key bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    -- From when on it verifies nothing any more; null: it signs.
    retires_at timestamptz
);

-- Logins that are kept alive by refresh tokens.
CREATE TABLE sessions (
    session_id uuid NOT NULL CONSTRAINT sessions_pkey PRIMARY KEY,
    user_id uuid NOT NULL CONSTRAINT sessions_user_fkey REFERENCES users ON DELETE CASCADE,
    tenant_id text COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL
);

CREATE INDEX sessions_user_idx ON sessions (user_id, created_at, session_id);
CREATE INDEX sessions_expiry_idx ON sessions (expires_at);

CREATE TABLE refresh_tokens (
    token_hash bytea NOT NULL CONSTRAINT refresh_tokens_pkey PRIMARY KEY
        CONSTRAINT refresh_tokens_hash_check CHECK (octet_length(token_hash) = 32),
    session_id uuid NOT NULL CONSTRAINT refresh_tokens_session_fkey REFERENCES sessions ON DELETE CASCADE,
    -- Counts the tokens of the session.
    serial bigint NOT NULL,
    expires_at timestamptz NOT NULL,
    -- A token that is shown again after this was stolen, or its successor was lost.
    used_at timestamptz,
    CONSTRAINT refresh_tokens_serial_key UNIQUE (session_id, serial)
);

-- Failed logins in a row, also of users that do not exist, so that nobody can tell them apart.
CREATE TABLE login_failures (
    -- SHA-256 of tenant and user name.
    subject_hash bytea NOT NULL CONSTRAINT login_failures_pkey PRIMARY KEY
        CONSTRAINT login_failures_hash_check CHECK (octet_length(subject_hash) = 32),
    failures integer NOT NULL,
    locked_until timestamptz NOT NULL,
    last_failed_at timestamptz NOT NULL
);

CREATE INDEX login_failures_age_idx ON login_failures (last_failed_at);
