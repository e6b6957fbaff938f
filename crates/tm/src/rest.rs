//! The REST interface: `/api/v2/...` and `/auth/realms/...` at Kaa's and Keycloak's places, `/tm/api/v1/...` for the rest.

mod api_keys;
mod login;
mod me;
mod realms;
mod signing_keys;
mod tenants;
mod users;

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use rest::{Caller, Role, Rule, Scope, rule};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::announcer::Announcer;
use crate::domain::{Grants, check_grants, may_give};
use crate::error::Error;
use crate::keyring::KeyRing;
use crate::login::Logins;
use crate::store::Store;

/// What each route needs. Whoever may see who he is may also change his password, so that both have one permission.
pub const ROUTES: &[Rule] = &[
    rule("POST", "/tm/api/v1/login", "account:login", Scope::Public),
    rule("POST", "/tm/api/v1/logout", "account:login", Scope::Public),
    rule("GET", "/tm/api/v1/jwks", "account:login", Scope::Public),
    rule("GET", "/auth/realms/{realm}/.well-known/openid-configuration", "account:login", Scope::Public),
    rule("GET", "/auth/realms/{realm}/protocol/openid-connect/certs", "account:login", Scope::Public),
    rule("POST", "/auth/realms/{realm}/protocol/openid-connect/token", "account:login", Scope::Public),
    rule("POST", "/auth/realms/{realm}/protocol/openid-connect/logout", "account:login", Scope::Public),
    rule("GET", "/tm/api/v1/me", "account:read", Scope::Handler),
    rule("PUT", "/tm/api/v1/me/password", "account:read", Scope::Handler),
    rule("GET", "/tm/api/v1/signing-keys", "kaa:signing-key:read", Scope::Platform),
    rule("POST", "/tm/api/v1/signing-keys", "kaa:signing-key:create", Scope::Platform),
    rule("GET", "/tm/api/v1/api-keys", "tenant:api-key:read", Scope::Tenant),
    rule("POST", "/tm/api/v1/api-keys", "tenant:api-key:create", Scope::Tenant),
    rule("GET", "/tm/api/v1/api-keys/{keyId}", "tenant:api-key:read", Scope::Tenant),
    rule("DELETE", "/tm/api/v1/api-keys/{keyId}", "tenant:api-key:delete", Scope::Tenant),
    rule("GET", "/api/v2/tenants", "kaa:tenant:read", Scope::Platform),
    rule("POST", "/api/v2/tenants", "kaa:tenant:create", Scope::Platform),
    rule("GET", "/api/v2/tenants/{tenantId}", "tenant:read", Scope::Tenant),
    rule("PUT", "/api/v2/tenants/{tenantId}", "tenant:update", Scope::Tenant),
    rule("DELETE", "/api/v2/tenants/{tenantId}", "kaa:tenant:delete", Scope::Platform),
    rule("GET", "/api/v2/users", "tenant:user:read", Scope::Tenant),
    rule("POST", "/api/v2/users", "tenant:user:create", Scope::Tenant),
    rule("GET", "/api/v2/users/{userId}", "tenant:user:read", Scope::Tenant),
    rule("PUT", "/api/v2/users/{userId}", "tenant:user:update", Scope::Tenant),
    rule("DELETE", "/api/v2/users/{userId}", "tenant:user:delete", Scope::Tenant),
    rule("PUT", "/api/v2/users/{userId}/password", "tenant:user:update", Scope::Tenant),
];

/// What the handlers work with.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) store: Store,
    pub(crate) logins: Arc<Logins>,
    pub(crate) keyring: Arc<KeyRing>,
    pub(crate) announcer: Announcer,
    pub(crate) token_ttl_s: u32,
    pub(crate) password_chars_min: usize,
}

/// The routes of the service.
pub(crate) fn router(api: Api) -> Router {
    let routes = OpenApiRouter::new()
        .routes(routes!(login::login))
        .routes(routes!(login::logout))
        .routes(routes!(login::jwks))
        .routes(routes!(realms::discovery))
        .routes(routes!(realms::certs))
        .routes(routes!(realms::token))
        .routes(routes!(realms::logout))
        .routes(routes!(me::get))
        .routes(routes!(me::set_password))
        .routes(routes!(signing_keys::list, signing_keys::rotate))
        .routes(routes!(api_keys::list, api_keys::create))
        .routes(routes!(api_keys::get, api_keys::revoke))
        .routes(routes!(tenants::list, tenants::create))
        .routes(routes!(tenants::get, tenants::update, tenants::delete))
        .routes(routes!(users::list, users::create))
        .routes(routes!(users::get, users::update, users::delete))
        .routes(routes!(users::set_password))
        .with_state(api);
    rest::service("tm", ROUTES, routes)
}

/// Checks a role and grants that a caller gives to somebody.
fn check_given(caller: &Caller, role: Option<Role>, grants: &Grants) -> Result<(), Error> {
    check_grants(grants)?;
    if may_give(caller.access.role, role, grants) { Ok(()) } else { Err(Error::AboveOwn) }
}

impl From<Error> for rest::Error {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::UnknownTenant(_) | Error::UnknownUser(_) | Error::UnknownApiKey(_) => {
                Self::not_found(message)
            }
            Error::TenantTaken(_)
            | Error::UsernameTaken
            | Error::ApiKeyTaken
            | Error::LastAdmin
            | Error::PlatformTenant => Self::conflict(message),
            Error::OnlyPlatform
            | Error::AboveOwn
            | Error::WrongPassword
            | Error::UserDisabled
            | Error::TenantDisabled(_) => Self::forbidden(message),
            Error::WrongCredentials | Error::RefreshToken | Error::WrongClient => Self::unauthorized(message),
            Error::Locked(left) => Self::new(StatusCode::TOO_MANY_REQUESTS, message).retry_after(left),
            Error::Busy | Error::Unannounced => Self::unavailable(message),
            Error::TooManyTenants(_) | Error::TooManyUsers(_) | Error::TooManyApiKeys(_) => {
                Self::too_many(message)
            }
            Error::Invalid(_) => Self::bad_request(message),
            Error::Seal(_) | Error::Sign(_) | Error::Hash(_) | Error::Stored(_) => Self::internal(error),
            Error::Database(source) => source.into(),
        }
    }
}
