//! The REST interface, `/cm/api/v1/...`.

mod tokens;

use std::sync::Arc;

use axum::Router;
use rest::{Rule, Scope, rule};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::endpoints::Endpoints;
use crate::error::Error;
use crate::registry::Registry;

const TOKENS: &str = "/cm/api/v1/endpoints/{endpointId}/tokens";
const TOKEN: &str = "/cm/api/v1/endpoints/{endpointId}/tokens/{endpointTokenId}";
const STATUS: &str = "/cm/api/v1/endpoints/{endpointId}/tokens/{endpointTokenId}/status";

/// What each route needs. The application is that of the endpoint: the handlers check it.
pub const ROUTES: &[Rule] = &[
    rule("POST", TOKENS, "endpoint:update", Scope::Handler),
    rule("GET", TOKENS, "endpoint:read", Scope::Handler),
    rule("GET", TOKEN, "endpoint:read", Scope::Handler),
    rule("DELETE", TOKEN, "endpoint:update", Scope::Handler),
    rule("PUT", STATUS, "endpoint:update", Scope::Handler),
];

/// What the handlers work with.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) registry: Arc<Registry>,
    pub(crate) endpoints: Endpoints,
}

/// The routes of the service.
pub(crate) fn router(api: Api) -> Router {
    let routes = OpenApiRouter::new()
        .routes(routes!(tokens::create, tokens::list))
        .routes(routes!(tokens::get, tokens::delete))
        .routes(routes!(tokens::put_status))
        .with_state(api);
    rest::service("cm", ROUTES, routes)
}

impl From<Error> for rest::Error {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::UnknownEndpoint(_)
            | Error::OtherApplication { .. }
            | Error::UnknownToken { .. }
            | Error::NoSuchToken => Self::not_found(message),
            Error::TokenTaken | Error::Transition { .. } => Self::conflict(message),
            Error::TooManyTokens(_) => Self::too_many(message),
            Error::Status(_) | Error::Invalid(_) => Self::bad_request(message),
            Error::EndpointsUnavailable(_) => Self::unavailable(message),
            Error::Database(source) => source.into(),
        }
    }
}
