//! Why an operation failed.

use std::time::Duration;

use ids::TenantId;
use uuid::Uuid;

use crate::domain::Invalid;
use crate::secret::SealError;

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("tenant {0} does not exist")]
    UnknownTenant(TenantId),
    #[error("tenant {0} exists or existed; the id of a tenant is never given again, choose another")]
    TenantTaken(TenantId),
    #[error("user {0} does not exist")]
    UnknownUser(Uuid),
    #[error("another user of the tenant has this username; choose another")]
    UsernameTaken,
    #[error("API key {0} does not exist")]
    UnknownApiKey(String),
    #[error(
        "this is the last administrator of the tenant who can log in; make another user an administrator first"
    )]
    LastAdmin,
    #[error("this is the platform's own tenant: it can be neither deleted nor disabled")]
    PlatformTenant,
    #[error("only an administrator of the platform enables or disables a tenant")]
    OnlyPlatform,
    #[error("the role or grants are above your own; ask an administrator")]
    AboveOwn,
    #[error("the current password is wrong")]
    WrongPassword,
    #[error("username or password is wrong")]
    WrongCredentials,
    #[error("the user is disabled; ask an administrator")]
    UserDisabled,
    #[error("tenant {0} is disabled; ask an administrator of the platform")]
    TenantDisabled(TenantId),
    #[error("too many failed logins; try again in {} s", .0.as_secs().max(1))]
    Locked(Duration),
    #[error("too many passwords are being checked (tm.password_checks_max); try again")]
    Busy,
    #[error("the refresh token is not valid (any more); log in again")]
    RefreshToken,
    #[error("the client id or secret is wrong, or the API key has expired or is revoked")]
    WrongClient,
    #[error("there are as many tenants as allowed, {0} (tm.tenants_max)")]
    TooManyTenants(i64),
    #[error("the tenant has the most users allowed, {0} (tm.users_max)")]
    TooManyUsers(i64),
    #[error("another API key has this text; choose another (tm.bootstrap.api_key)")]
    ApiKeyTaken,
    #[error("the tenant has the most API keys allowed, {0} (tm.api_keys_max); revoke one first")]
    TooManyApiKeys(i64),
    #[error(transparent)]
    Invalid(#[from] Invalid),
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error("a token could not be signed")]
    Sign(#[source] jsonwebtoken::errors::Error),
    #[error("a password could not be hashed: {0}")]
    Hash(String),
    #[error("what is stored cannot be read: {0}")]
    Stored(&'static str),
    #[error("the other services cannot be told now; try again")]
    Unannounced,
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
}
