//! The REST interface, at Kaa's paths with Kaa's names.

mod books;
mod parameters;
mod series;
mod unextracted;
mod update;

use std::sync::Arc;

use ids::ApplicationName;
use rest::{Caller, Error, Rule, Scope, rule};
use runtime::{Application, Applications, LookupError};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::books::Books;
use crate::endpoints::Endpoints;
use crate::intake::Intake;
use crate::reads::{ReadError, Reads};
use crate::settings::EptsSettings;

/// Who may call what.
pub const ROUTES: &[Rule] = &[
    rule("GET", "/epts/api/v1/time-series/config", "application:timeseries-config:read", Scope::Handler),
    rule(
        "GET",
        "/epts/api/v1/applications/{applicationName}/time-series/last",
        "endpoint:read",
        OF_APPLICATION,
    ),
    rule(
        "POST",
        "/epts/api/v1/applications/{applicationName}/time-series/last",
        "endpoint:read",
        OF_APPLICATION,
    ),
    rule(
        "GET",
        "/epts/api/v1/applications/{applicationName}/time-series/data",
        "endpoint:read",
        OF_APPLICATION,
    ),
    rule(
        "PUT",
        "/epts/api/v1/app-versions/{appVersionName}/time-series/data",
        "endpoint:update",
        Scope::Handler,
    ),
    rule(
        "GET",
        "/epts/api/v1/applications/{applicationName}/unextracted-samples",
        "endpoint:read",
        OF_APPLICATION,
    ),
    rule("GET", "/epts/api/v1/applications/{applicationName}/books", "application:read", OF_APPLICATION),
];

const OF_APPLICATION: Scope = Scope::Path("applicationName");

/// What the handlers work with.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) reads: Reads,
    pub(crate) intake: Intake,
    pub(crate) books: Arc<Books>,
    pub(crate) applications: Applications<EptsSettings>,
    pub(crate) endpoints: Endpoints,
}

/// All routes of the service.
pub(crate) fn routes(api: Api) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(series::config))
        .routes(routes!(series::last, series::last_of_list))
        .routes(routes!(series::data))
        .routes(routes!(update::put))
        .routes(routes!(unextracted::list))
        .routes(routes!(books::of_application))
        .with_state(api)
}

impl Api {
    /// The caller's application of that name. None when the register does not answer: what is stored is found by
    /// tenant and name alone, and so can still be read.
    async fn application(
        &self,
        caller: &Caller,
        name: &str,
    ) -> Result<(ApplicationName, Option<Arc<Application<EptsSettings>>>), Error> {
        let unknown = || Error::not_found(format!("the application {name} does not exist"));
        let application_name = ApplicationName::parse(name).map_err(|_| unknown())?;
        caller.check_application(&application_name)?;
        match self.applications.application(&application_name).await {
            Ok(application) if application.tenant_id == caller.tenant => {
                Ok((application_name, Some(application)))
            }
            Ok(_) | Err(LookupError::Unknown) => Err(unknown()),
            Err(LookupError::Unavailable(_)) => Ok((application_name, None)),
        }
    }
}

impl From<ReadError> for Error {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::TooManyPoints(_) | ReadError::TooManyBytes(_) => Self::bad_request(error.to_string()),
            ReadError::Busy => Self::unavailable(error.to_string()),
            ReadError::Database(error) => error.into(),
        }
    }
}
