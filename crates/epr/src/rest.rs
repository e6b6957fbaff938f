//! The REST interface, `/epr/api/v1/...`.

mod endpoints;

use axum::Router;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::error::Error;
use crate::registration::Registrar;
use crate::store::Store;

/// What the handlers work with.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) store: Store,
    pub(crate) registrar: Registrar,
}

/// The routes of the service.
pub(crate) fn router(api: Api) -> Router {
    let routes = OpenApiRouter::new()
        .routes(routes!(endpoints::create, endpoints::list))
        .routes(routes!(endpoints::get))
        .with_state(api);
    rest::service("epr", routes)
}

impl From<Error> for rest::Error {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::UnknownVersion(_) | Error::UnknownEndpoint(_) => Self::not_found(message),
            Error::EndpointExists(_) | Error::TokenTaken(_) => Self::conflict(message),
            Error::TokenInvalid(_) | Error::Invalid(_) => Self::bad_request(message),
            Error::VersionsUnavailable(_) | Error::Reserved(_) | Error::NoToken(_) | Error::TokenLate(_) => {
                Self::unavailable(message)
            }
            Error::Name(_) => Self::internal(error),
            Error::Database(source) => source.into(),
        }
    }
}
