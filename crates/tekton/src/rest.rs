//! The REST interface, `/tekton/api/v1/...`.

mod app_configs;
mod applications;
mod versions;

use axum::Router;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::error::Error;
use crate::events::Events;
use crate::store::Store;

/// What the handlers work with.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) store: Store,
    pub(crate) events: Events,
}

/// The routes of the service.
pub(crate) fn router(api: Api) -> Router {
    let routes = OpenApiRouter::new()
        .routes(routes!(applications::create, applications::list))
        .routes(routes!(applications::get, applications::update))
        .routes(routes!(versions::create, versions::list))
        .routes(routes!(versions::get, versions::update))
        .routes(routes!(
            app_configs::get_application,
            app_configs::put_application,
            app_configs::patch_application
        ))
        .routes(routes!(app_configs::get_version, app_configs::put_version, app_configs::patch_version))
        .with_state(api);
    rest::service("tekton", routes)
}

impl From<Error> for rest::Error {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::UnknownApplication(_) | Error::UnknownVersion { .. } => Self::not_found(message),
            Error::VersionExists(_) => Self::conflict(message),
            Error::TooManyApplications(_) | Error::TooManyVersions(_) => Self::too_many(message),
            Error::BlockTooLarge { .. } | Error::ConfigTooLarge { .. } => Self::too_large(message),
            Error::Invalid(_) | Error::Document(_) => Self::bad_request(message),
            Error::Name(_) | Error::StoredBlock(_) => Self::internal(error),
            Error::Database(source) => source.into(),
        }
    }
}
