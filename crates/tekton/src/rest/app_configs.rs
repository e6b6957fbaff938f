//! `/app-configs/applications/{appName}`, and the same for one version. The application's resource holds the
//! blocks of its versions too (`versions.<version>`).

use axum::extract::State;
use axum::response::Response;
use ids::{AppVersionName, ApplicationName};
use rest::{Caller, Error, IfMatch, IfNoneMatch, Json, Parameters, Path};
use serde_json::Value;

use super::Api;
use super::configs::Resource;
use crate::document::Scope;

fn of_application(caller: &Caller, application: ApplicationName) -> Resource {
    Resource::own(caller, Scope::Application(application))
}

fn of_version(caller: &Caller, (application, version): (ApplicationName, AppVersionName)) -> Resource {
    Resource::own(caller, Scope::Version(application, version))
}

/// The configuration of services for an application, its versions included.
#[utoipa::path(
    get, path = "/tekton/api/v1/app-configs/applications/{appName}", tag = "service configuration",
    params(
        ("appName" = String, Path, description = "The application's name."),
        ("serviceInstanceName" = Option<Vec<String>>, Query, description = "Only these; repeated or by comma."),
        ("If-None-Match" = Option<String>, Header, description = "The tag of what the caller has."),
    ),
    responses(
        (status = 200, body = Object, headers(("ETag" = String, description = "The tag of this state."))),
        (status = 304, description = "The caller has it."), (status = 404, body = rest::ErrorBody),
    ),
)]
pub(super) async fn get_application(
    State(api): State<Api>,
    caller: Caller,
    Path(application): Path<ApplicationName>,
    parameters: Parameters,
    known: IfNoneMatch,
) -> Result<Response, Error> {
    api.read(&of_application(&caller, application), &parameters, &known).await
}

/// Replaces the configuration of all services for an application, its versions included.
#[utoipa::path(
    put, path = "/tekton/api/v1/app-configs/applications/{appName}", tag = "service configuration",
    params(
        ("appName" = String, Path, description = "The application's name."),
        ("If-Match" = Option<String>, Header, description = "The tag of the state to replace."),
    ),
    request_body = Object,
    responses(
        (status = 200, body = Object, headers(("ETag" = String, description = "The tag of the new state."))),
        (status = 400, body = rest::ErrorBody), (status = 404, body = rest::ErrorBody),
        (status = 412, body = rest::ErrorBody), (status = 413, body = rest::ErrorBody),
    ),
)]
pub(super) async fn put_application(
    State(api): State<Api>,
    caller: Caller,
    Path(application): Path<ApplicationName>,
    expected: IfMatch,
    Json(body): Json<Value>,
) -> Result<Response, Error> {
    let resource = of_application(&caller, application);
    api.replace(&caller, &resource, &expected, body).await
}

/// Changes the configuration of the named services for an application by a JSON merge patch.
#[utoipa::path(
    patch, path = "/tekton/api/v1/app-configs/applications/{appName}", tag = "service configuration",
    params(
        ("appName" = String, Path, description = "The application's name."),
        ("serviceInstanceName" = Vec<String>, Query, description = "What to change; repeated or by comma."),
        ("If-Match" = Option<String>, Header, description = "The tag of what `GET` with the same names shows."),
    ),
    request_body = Object,
    responses(
        (status = 200, body = Object, headers(("ETag" = String, description = "The tag of the new state."))),
        (status = 400, body = rest::ErrorBody), (status = 404, body = rest::ErrorBody),
        (status = 412, body = rest::ErrorBody), (status = 413, body = rest::ErrorBody),
    ),
)]
pub(super) async fn patch_application(
    State(api): State<Api>,
    caller: Caller,
    Path(application): Path<ApplicationName>,
    parameters: Parameters,
    expected: IfMatch,
    Json(body): Json<Value>,
) -> Result<Response, Error> {
    let resource = of_application(&caller, application);
    api.merge(&caller, &resource, &expected, &parameters, body).await
}

/// The configuration of services for one version.
#[utoipa::path(
    get, path = "/tekton/api/v1/app-configs/applications/{appName}/app-versions/{appVersionName}",
    tag = "service configuration",
    params(
        ("appName" = String, Path, description = "The application's name."),
        ("appVersionName" = String, Path, description = "The version's full name."),
        ("serviceInstanceName" = Option<Vec<String>>, Query, description = "Only these; repeated or by comma."),
        ("If-None-Match" = Option<String>, Header, description = "The tag of what the caller has."),
    ),
    responses(
        (status = 200, body = Object, headers(("ETag" = String, description = "The tag of this state."))),
        (status = 304, description = "The caller has it."), (status = 404, body = rest::ErrorBody),
    ),
)]
pub(super) async fn get_version(
    State(api): State<Api>,
    caller: Caller,
    Path(names): Path<(ApplicationName, AppVersionName)>,
    parameters: Parameters,
    known: IfNoneMatch,
) -> Result<Response, Error> {
    api.read(&of_version(&caller, names), &parameters, &known).await
}

/// Replaces the configuration of all services for one version.
#[utoipa::path(
    put, path = "/tekton/api/v1/app-configs/applications/{appName}/app-versions/{appVersionName}",
    tag = "service configuration",
    params(
        ("appName" = String, Path, description = "The application's name."),
        ("appVersionName" = String, Path, description = "The version's full name."),
        ("If-Match" = Option<String>, Header, description = "The tag of the state to replace."),
    ),
    request_body = Object,
    responses(
        (status = 200, body = Object, headers(("ETag" = String, description = "The tag of the new state."))),
        (status = 400, body = rest::ErrorBody), (status = 404, body = rest::ErrorBody),
        (status = 412, body = rest::ErrorBody), (status = 413, body = rest::ErrorBody),
    ),
)]
pub(super) async fn put_version(
    State(api): State<Api>,
    caller: Caller,
    Path(names): Path<(ApplicationName, AppVersionName)>,
    expected: IfMatch,
    Json(body): Json<Value>,
) -> Result<Response, Error> {
    let resource = of_version(&caller, names);
    api.replace(&caller, &resource, &expected, body).await
}

/// Changes the configuration of the named services for one version by a JSON merge patch.
#[utoipa::path(
    patch, path = "/tekton/api/v1/app-configs/applications/{appName}/app-versions/{appVersionName}",
    tag = "service configuration",
    params(
        ("appName" = String, Path, description = "The application's name."),
        ("appVersionName" = String, Path, description = "The version's full name."),
        ("serviceInstanceName" = Vec<String>, Query, description = "What to change; repeated or by comma."),
        ("If-Match" = Option<String>, Header, description = "The tag of what `GET` with the same names shows."),
    ),
    request_body = Object,
    responses(
        (status = 200, body = Object, headers(("ETag" = String, description = "The tag of the new state."))),
        (status = 400, body = rest::ErrorBody), (status = 404, body = rest::ErrorBody),
        (status = 412, body = rest::ErrorBody), (status = 413, body = rest::ErrorBody),
    ),
)]
pub(super) async fn patch_version(
    State(api): State<Api>,
    caller: Caller,
    Path(names): Path<(ApplicationName, AppVersionName)>,
    parameters: Parameters,
    expected: IfMatch,
    Json(body): Json<Value>,
) -> Result<Response, Error> {
    let resource = of_version(&caller, names);
    api.merge(&caller, &resource, &expected, &parameters, body).await
}
