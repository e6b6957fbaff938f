//! The REST interface, `/ccm/api/v1/...`.

mod authorities;
mod basic;
mod certificates;

use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use rest::{Json, Parameters, Rule, Scope, rule};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::error::Error;
use crate::logins::HashError;
use crate::registry::Registry;
use crate::state::State;
use crate::store::{Change, Filter};

/// Elements of one answer at most, and when nobody says: Kaa's clients ask for all at once.
const LIMIT: u32 = 1_000;
/// How many there are in all: the body is a plain array, as Kaa's is.
const TOTAL_HEADER: HeaderName = HeaderName::from_static("x-total-count");
const PEM: &str = "application/x-pem-file";

/// What each route needs.
pub const ROUTES: &[Rule] = &[
    rule("GET", "/ccm/api/v1/basic-credentials", "tenant:basic-credentials:read", Scope::Tenant),
    rule("POST", "/ccm/api/v1/basic-credentials", "tenant:basic-credentials:create", Scope::Tenant),
    rule(
        "GET",
        "/ccm/api/v1/basic-credentials/{credentialsId}",
        "tenant:basic-credentials:read",
        Scope::Tenant,
    ),
    rule(
        "DELETE",
        "/ccm/api/v1/basic-credentials/{credentialsId}",
        "tenant:basic-credentials:delete",
        Scope::Tenant,
    ),
    rule(
        "PUT",
        "/ccm/api/v1/basic-credentials/{credentialsId}/state",
        "tenant:basic-credentials:update",
        Scope::Tenant,
    ),
    rule(
        "PUT",
        "/ccm/api/v1/basic-credentials/{credentialsId}/password",
        "tenant:basic-credentials:update",
        Scope::Tenant,
    ),
    rule("GET", "/ccm/api/v1/x509-credentials", "tenant:x509-credentials:read", Scope::Tenant),
    rule("POST", "/ccm/api/v1/x509-credentials", "tenant:x509-credentials:create", Scope::Tenant),
    rule(
        "GET",
        "/ccm/api/v1/x509-credentials/{credentialsId}",
        "tenant:x509-credentials:read",
        Scope::Tenant,
    ),
    rule(
        "DELETE",
        "/ccm/api/v1/x509-credentials/{credentialsId}",
        "tenant:x509-credentials:delete",
        Scope::Tenant,
    ),
    rule(
        "PUT",
        "/ccm/api/v1/x509-credentials/{credentialsId}/state",
        "tenant:x509-credentials:update",
        Scope::Tenant,
    ),
    rule("GET", "/ccm/api/v1/x509-credentials/authorities", "tenant:x509-credentials:read", Scope::Tenant),
    rule("POST", "/ccm/api/v1/x509-credentials/authorities", "tenant:x509-credentials:create", Scope::Tenant),
    rule(
        "GET",
        "/ccm/api/v1/x509-credentials/authorities/registration-code",
        // Who may not register needs no code.
        "tenant:x509-credentials:create",
        Scope::Tenant,
    ),
    rule(
        "GET",
        "/ccm/api/v1/x509-credentials/authorities/{authorityId}",
        "tenant:x509-credentials:read",
        Scope::Tenant,
    ),
    rule(
        "DELETE",
        "/ccm/api/v1/x509-credentials/authorities/{authorityId}",
        "tenant:x509-credentials:delete",
        Scope::Tenant,
    ),
    rule(
        "PUT",
        "/ccm/api/v1/x509-credentials/authorities/{authorityId}/state",
        "tenant:x509-credentials:update",
        Scope::Tenant,
    ),
    rule(
        "GET",
        "/ccm/api/v1/x509-credentials/authorities/{authorityId}/certificate",
        "tenant:x509-credentials:read",
        Scope::Tenant,
    ),
    rule("GET", "/ccm/api/v1/certificates/root", "tenant:x509-credentials:read", Scope::Public),
];

/// What the handlers work with.
pub(crate) type Api = Arc<Registry>;

/// The routes of the service.
pub(crate) fn router(api: Api) -> Router {
    let routes = OpenApiRouter::new()
        .routes(routes!(basic::list, basic::create))
        .routes(routes!(basic::get, basic::delete))
        .routes(routes!(basic::set_state))
        .routes(routes!(basic::set_password))
        .routes(routes!(certificates::list, certificates::issue))
        .routes(routes!(certificates::get, certificates::delete))
        .routes(routes!(certificates::set_state))
        .routes(routes!(authorities::list, authorities::create))
        .routes(routes!(authorities::registration_code))
        .routes(routes!(authorities::get, authorities::delete))
        .routes(routes!(authorities::set_state))
        .routes(routes!(authorities::certificate))
        .routes(routes!(authorities::root))
        .with_state(api);
    rest::service("ccm", ROUTES, routes)
}

/// A state to move to.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct StateBody {
    state: State,
}

/// A list, and how many there are in all.
struct Listed<T> {
    total: i64,
    content: Vec<T>,
}

impl<T: Serialize> IntoResponse for Listed<T> {
    fn into_response(self) -> Response {
        ([(TOTAL_HEADER, HeaderValue::from(self.total))], Json(self.content)).into_response()
    }
}

/// A certificate, or several, in PEM.
struct Pem(String);

impl IntoResponse for Pem {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, HeaderValue::from_static(PEM))], self.0).into_response()
    }
}

fn filter(parameters: &Parameters) -> Result<Filter, rest::Error> {
    let limit = parameters.one::<u32>("limit")?.unwrap_or(LIMIT);
    if !(1..=LIMIT).contains(&limit) {
        return Err(rest::Error::bad_request(format!("limit must be an integer from 1 to {LIMIT}")));
    }
    let offset = parameters.one::<u32>("offset")?.unwrap_or(0);
    Ok(Filter { states: parameters.list("state")?, offset: offset.into(), limit: limit.into() })
}

fn change(caller: &rest::Caller) -> Change<'_> {
    Change { tenant: &caller.tenant, correlation_id: caller.correlation_id.as_str() }
}

/// An id out of a path. What is no id is the id of nothing.
fn credentials_id(text: String) -> Result<Uuid, Error> {
    text.parse().map_err(|_| Error::UnknownCredentials(text))
}

fn authority_id(text: String) -> Result<Uuid, Error> {
    text.parse().map_err(|_| Error::UnknownAuthority(text))
}

impl From<Error> for rest::Error {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::UnknownCredentials(_) | Error::UnknownAuthority(_) | Error::NoOwnAuthority => {
                Self::not_found(message)
            }
            Error::UsernameTaken
            | Error::AuthorityTaken
            | Error::AuthoritySuspended(_)
            | Error::AuthorityGone
            | Error::RootExpires
            | Error::Transition { .. }
            | Error::Revoked
            | Error::WouldReturn => Self::conflict(message),
            Error::TooMany { .. } => Self::too_many(message),
            Error::InvalidUsername
            | Error::Ttl(_)
            | Error::Certificate(_)
            | Error::State(_)
            | Error::Invalid(_)
            | Error::Hash(HashError::Invalid(_)) => Self::bad_request(message),
            Error::Hash(HashError::Busy) => Self::unavailable(message),
            Error::Hash(source) => Self::internal(source),
            Error::Make(source) => Self::internal(source),
            Error::Key(source) => Self::internal(source),
            Error::Database(source) => source.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(parameters: &[(&str, &str)]) -> Result<Filter, String> {
        filter(&parameters.iter().copied().collect()).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn lists_are_bounded() {
        let all = Filter { states: vec![], offset: 0, limit: 1_000 };
        assert_eq!(read(&[]), Ok(all));
        let some = Filter { states: vec![State::Active, State::Revoked], offset: 7, limit: 5 };
        assert_eq!(read(&[("state", "Active,Revoked"), ("offset", "7"), ("limit", "5")]), Ok(some));
        for bad in [("limit", "0"), ("limit", "1001"), ("offset", "-1"), ("state", "active")] {
            assert!(read(&[bad]).is_err(), "{bad:?}");
        }
    }
}
