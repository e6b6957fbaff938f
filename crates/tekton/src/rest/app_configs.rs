//! `/app-configs/applications/{appName}`, and the same for one version.
//!
//! The application's resource holds the blocks of its versions too (`versions.<version>`). `PUT` replaces all
//! that the resource holds: what the body does not name is removed, so `GET`, edit, `PUT` does what it looks
//! like. `PATCH` is a JSON merge patch (RFC 7396) to the blocks of the named service instances, `null`
//! removes.

use axum::extract::State;
use ids::{AppVersionName, ApplicationName, InstanceName};
use rest::{Caller, Error, Json, Parameters, Path};
use serde_json::Value;

use super::Api;
use crate::document::{Blocks, Level, Scope};

fn instances(parameters: &Parameters) -> Result<Vec<InstanceName>, Error> {
    parameters.list("serviceInstanceName")
}

fn of_application(application: ApplicationName) -> Scope {
    Scope { application, level: Level::Application }
}

fn of_version((application, version): (ApplicationName, AppVersionName)) -> Scope {
    Scope { application, level: Level::Version(version) }
}

impl Api {
    async fn read(
        &self,
        caller: &Caller,
        scope: &Scope,
        parameters: &Parameters,
    ) -> Result<Json<Value>, Error> {
        let blocks = self.store.blocks(&caller.tenant, scope, &instances(parameters)?).await?;
        Ok(Json(scope.document(blocks)))
    }

    async fn replace(&self, caller: &Caller, scope: &Scope, body: Value) -> Result<Json<Value>, Error> {
        self.change(caller, scope, |_, versions| scope.read(body, versions)).await
    }

    async fn merge(
        &self,
        caller: &Caller,
        scope: &Scope,
        parameters: &Parameters,
        body: Value,
    ) -> Result<Json<Value>, Error> {
        let named = instances(parameters)?;
        if named.is_empty() {
            return Err(Error::bad_request("name the service instances to change in serviceInstanceName"));
        }
        self.change(caller, scope, |blocks, versions| scope.patch(blocks, &named, body, versions)).await
    }

    async fn change<F>(&self, caller: &Caller, scope: &Scope, change: F) -> Result<Json<Value>, Error>
    where
        F: FnOnce(Blocks, &[String]) -> Result<Blocks, crate::document::Fault> + Send,
    {
        let (blocks, changes) = self.store.change_blocks(&caller.tenant, scope, change).await?;
        let correlation_id = caller.correlation_id.as_str();
        self.events.changed(correlation_id, &caller.tenant, &scope.application, &changes).await;
        Ok(Json(scope.document(blocks)))
    }
}

/// The configuration of services for an application, its versions included.
#[utoipa::path(
    get, path = "/tekton/api/v1/app-configs/applications/{appName}", tag = "service configuration",
    params(
        ("appName" = String, Path, description = "The application's name."),
        ("serviceInstanceName" = Option<Vec<String>>, Query, description = "Only these; repeated or by comma."),
    ),
    responses((status = 200, body = Object), (status = 404, body = rest::ErrorBody)),
)]
pub(super) async fn get_application(
    State(api): State<Api>,
    caller: Caller,
    Path(application): Path<ApplicationName>,
    parameters: Parameters,
) -> Result<Json<Value>, Error> {
    api.read(&caller, &of_application(application), &parameters).await
}

/// Replaces the configuration of all services for an application, its versions included.
#[utoipa::path(
    put, path = "/tekton/api/v1/app-configs/applications/{appName}", tag = "service configuration",
    params(("appName" = String, Path, description = "The application's name.")), request_body = Object,
    responses(
        (status = 200, body = Object), (status = 400, body = rest::ErrorBody),
        (status = 404, body = rest::ErrorBody), (status = 413, body = rest::ErrorBody),
    ),
)]
pub(super) async fn put_application(
    State(api): State<Api>,
    caller: Caller,
    Path(application): Path<ApplicationName>,
    Json(body): Json<Value>,
) -> Result<Json<Value>, Error> {
    api.replace(&caller, &of_application(application), body).await
}

/// Changes the configuration of the named services for an application by a JSON merge patch.
#[utoipa::path(
    patch, path = "/tekton/api/v1/app-configs/applications/{appName}", tag = "service configuration",
    params(
        ("appName" = String, Path, description = "The application's name."),
        ("serviceInstanceName" = Vec<String>, Query, description = "What to change; repeated or by comma."),
    ),
    request_body = Object,
    responses(
        (status = 200, body = Object), (status = 400, body = rest::ErrorBody),
        (status = 404, body = rest::ErrorBody), (status = 413, body = rest::ErrorBody),
    ),
)]
pub(super) async fn patch_application(
    State(api): State<Api>,
    caller: Caller,
    Path(application): Path<ApplicationName>,
    parameters: Parameters,
    Json(body): Json<Value>,
) -> Result<Json<Value>, Error> {
    api.merge(&caller, &of_application(application), &parameters, body).await
}

/// The configuration of services for one version.
#[utoipa::path(
    get, path = "/tekton/api/v1/app-configs/applications/{appName}/app-versions/{appVersionName}",
    tag = "service configuration",
    params(
        ("appName" = String, Path, description = "The application's name."),
        ("appVersionName" = String, Path, description = "The version's full name."),
        ("serviceInstanceName" = Option<Vec<String>>, Query, description = "Only these; repeated or by comma."),
    ),
    responses((status = 200, body = Object), (status = 404, body = rest::ErrorBody)),
)]
pub(super) async fn get_version(
    State(api): State<Api>,
    caller: Caller,
    Path(names): Path<(ApplicationName, AppVersionName)>,
    parameters: Parameters,
) -> Result<Json<Value>, Error> {
    api.read(&caller, &of_version(names), &parameters).await
}

/// Replaces the configuration of all services for one version.
#[utoipa::path(
    put, path = "/tekton/api/v1/app-configs/applications/{appName}/app-versions/{appVersionName}",
    tag = "service configuration",
    params(
        ("appName" = String, Path, description = "The application's name."),
        ("appVersionName" = String, Path, description = "The version's full name."),
    ),
    request_body = Object,
    responses(
        (status = 200, body = Object), (status = 400, body = rest::ErrorBody),
        (status = 404, body = rest::ErrorBody), (status = 413, body = rest::ErrorBody),
    ),
)]
pub(super) async fn put_version(
    State(api): State<Api>,
    caller: Caller,
    Path(names): Path<(ApplicationName, AppVersionName)>,
    Json(body): Json<Value>,
) -> Result<Json<Value>, Error> {
    api.replace(&caller, &of_version(names), body).await
}

/// Changes the configuration of the named services for one version by a JSON merge patch.
#[utoipa::path(
    patch, path = "/tekton/api/v1/app-configs/applications/{appName}/app-versions/{appVersionName}",
    tag = "service configuration",
    params(
        ("appName" = String, Path, description = "The application's name."),
        ("appVersionName" = String, Path, description = "The version's full name."),
        ("serviceInstanceName" = Vec<String>, Query, description = "What to change; repeated or by comma."),
    ),
    request_body = Object,
    responses(
        (status = 200, body = Object), (status = 400, body = rest::ErrorBody),
        (status = 404, body = rest::ErrorBody), (status = 413, body = rest::ErrorBody),
    ),
)]
pub(super) async fn patch_version(
    State(api): State<Api>,
    caller: Caller,
    Path(names): Path<(ApplicationName, AppVersionName)>,
    parameters: Parameters,
    Json(body): Json<Value>,
) -> Result<Json<Value>, Error> {
    api.merge(&caller, &of_version(names), &parameters, body).await
}
