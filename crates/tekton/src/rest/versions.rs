//! `/applications/{appName}/app-versions`

use axum::extract::State;
use axum::http::StatusCode;
use ids::{AppVersionName, ApplicationName};
use rest::{Caller, Created, Error, Json, Path};
use serde::Deserialize;
use utoipa::ToSchema;

use super::Api;
use crate::document::Scope;
use crate::domain::{AppVersion, Suffix, Texts};
use crate::store::{Deletion, NewVersion};

/// A version to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct NewVersionBody {
    /// `^[a-z0-9]+$`, up to 64 characters; the next `v<n>` when absent.
    name_suffix: Option<String>,
    /// Up to 256 characters, no control characters.
    display_name: Option<String>,
    /// Up to 4096 characters.
    description: Option<String>,
}

/// Makes an application version.
#[utoipa::path(
    post, path = "/tekton/api/v1/applications/{appName}/app-versions", tag = "application versions",
    params(("appName" = String, Path, description = "The application's name.")), request_body = NewVersionBody,
    responses(
        (status = 201, body = AppVersion, headers(("Location" = String, description = "The version's path."))),
        (status = 400, body = rest::ErrorBody), (status = 404, body = rest::ErrorBody),
        (status = 409, body = rest::ErrorBody), (status = 429, body = rest::ErrorBody),
    ),
)]
pub(super) async fn create(
    State(api): State<Api>,
    caller: Caller,
    Path(application): Path<ApplicationName>,
    Json(body): Json<NewVersionBody>,
) -> Result<Created<AppVersion>, Error> {
    let texts = Texts::new(body.display_name, body.description).map_err(crate::error::Error::from)?;
    let suffix =
        body.name_suffix.as_deref().map(Suffix::parse).transpose().map_err(crate::error::Error::from)?;
    let new = NewVersion { suffix, texts };
    let (name, body) = api.store.create_version(&caller.tenant, &application, new).await?;
    let location = format!("/tekton/api/v1/applications/{application}/app-versions/{name}");
    let scope = Scope::Version(application, name);
    api.events.created(caller.correlation_id.as_str(), &caller.tenant, &scope).await;
    Ok(Created { location, body })
}

/// Lists the versions of an application, oldest first.
#[utoipa::path(
    get, path = "/tekton/api/v1/applications/{appName}/app-versions", tag = "application versions",
    params(("appName" = String, Path, description = "The application's name.")),
    responses((status = 200, body = Vec<AppVersion>), (status = 404, body = rest::ErrorBody)),
)]
pub(super) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Path(application): Path<ApplicationName>,
) -> Result<Json<Vec<AppVersion>>, Error> {
    Ok(Json(api.store.application(&caller.tenant, &application).await?.versions))
}

/// One version.
#[utoipa::path(
    get, path = "/tekton/api/v1/applications/{appName}/app-versions/{appVersionName}", tag = "application versions",
    params(
        ("appName" = String, Path, description = "The application's name."),
        ("appVersionName" = String, Path, description = "The version's full name."),
    ),
    responses((status = 200, body = AppVersion), (status = 404, body = rest::ErrorBody)),
)]
pub(super) async fn get(
    State(api): State<Api>,
    caller: Caller,
    Path((application, version)): Path<(ApplicationName, AppVersionName)>,
) -> Result<Json<AppVersion>, Error> {
    Ok(Json(api.store.version(&caller.tenant, &application, &version).await?))
}

/// Changes display name and description. What is absent stays; `null` clears.
#[utoipa::path(
    patch, path = "/tekton/api/v1/applications/{appName}/app-versions/{appVersionName}", tag = "application versions",
    params(
        ("appName" = String, Path, description = "The application's name."),
        ("appVersionName" = String, Path, description = "The version's full name."),
    ),
    request_body = Texts,
    responses(
        (status = 200, body = AppVersion),
        (status = 400, body = rest::ErrorBody), (status = 404, body = rest::ErrorBody),
    ),
)]
pub(super) async fn update(
    State(api): State<Api>,
    caller: Caller,
    Path((application, version)): Path<(ApplicationName, AppVersionName)>,
    Json(texts): Json<Texts>,
) -> Result<Json<AppVersion>, Error> {
    texts.check().map_err(crate::error::Error::from)?;
    Ok(Json(api.store.update_version(&caller.tenant, &application, &version, texts).await?))
}

/// Deletes a version with its configuration. Devices that use it are refused from then on; endpoints of it stay,
/// and can be moved to another version.
#[utoipa::path(
    delete, path = "/tekton/api/v1/applications/{appName}/app-versions/{appVersionName}", tag = "application versions",
    params(
        ("appName" = String, Path, description = "The application's name."),
        ("appVersionName" = String, Path, description = "The version's full name."),
    ),
    responses((status = 204, description = "It is deleted."), (status = 404, body = rest::ErrorBody)),
)]
pub(super) async fn delete(
    State(api): State<Api>,
    caller: Caller,
    Path((application, version)): Path<(ApplicationName, AppVersionName)>,
) -> Result<StatusCode, Error> {
    api.store.delete_version(&caller.tenant, &application, &version).await?;
    let deletion = Deletion {
        tenant_id: caller.tenant.to_string(),
        application_name: application.to_string(),
        app_version_name: version.to_string(),
    };
    api.events.deleted(caller.correlation_id.as_str(), deletion).await;
    Ok(StatusCode::NO_CONTENT)
}
