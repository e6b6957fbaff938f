//! `/applications`

use axum::extract::State;
use axum::http::StatusCode;
use ids::{ApplicationName, TenantId};
use rest::{Caller, Created, Error, Json, Parameters, Path, Query};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::Api;
use crate::document::Scope;
use crate::domain::{Application, Texts, check_group, given_name};
use crate::error::Error as Failure;
use crate::store::{Deletion, NewApplication};

const LIST_MAX: u32 = 1_000;

/// Which applications to list. Without parameters: all, as many as the limit allows.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(super) struct Part {
    /// How many applications to skip.
    #[serde(default)]
    offset: u32,
    /// How many applications to list at most, from 1 to 1000.
    #[serde(default = "list_max")]
    #[param(minimum = 1, maximum = 1000, default = 1000)]
    limit: u32,
    /// Those of another tenant: for administrators of the platform.
    #[param(value_type = Option<String>)]
    tenant_id: Option<TenantId>,
}

/// An application to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct NewApplicationBody {
    /// 1 to 64 characters out of `a-z 0-9 - _`. Only where the platform does not make the names
    /// (`tekton.app_names_auto_generation` is off), and then required; else ignored.
    name: Option<String>,
    /// Up to 256 characters, no control characters.
    display_name: Option<String>,
    /// Up to 4096 characters.
    description: Option<String>,
    /// What people sort their applications by: up to 256 characters.
    group: Option<String>,
}

fn list_max() -> u32 {
    LIST_MAX
}

/// Makes an application. The platform makes its name; a `name` in the body is ignored, as Kaa does, unless
/// `tekton.app_names_auto_generation` is off.
#[utoipa::path(
    post, path = "/tekton/api/v1/applications", tag = "applications", request_body = NewApplicationBody,
    params(("tenantId" = Option<String>, Query, description = "Another tenant: for administrators of the platform.")),
    responses(
        (status = 201, body = Application, headers(("Location" = String, description = "The application's path."))),
        (status = 400, body = rest::ErrorBody), (status = 403, body = rest::ErrorBody),
        (status = 409, body = rest::ErrorBody, description = "The name is taken."),
        (status = 429, body = rest::ErrorBody),
    ),
)]
pub(super) async fn create(
    State(api): State<Api>,
    caller: Caller,
    parameters: Parameters,
    Json(body): Json<NewApplicationBody>,
) -> Result<Created<Application>, Error> {
    let tenant = caller.tenant_or(parameters.one("tenantId")?)?;
    let texts = Texts::new(body.display_name, body.description).map_err(Failure::from)?;
    check_group(body.group.as_deref()).map_err(Failure::from)?;
    let name = match api.store.limits().app_names_auto_generation {
        true => None,
        false => Some(given_name(body.name.as_deref()).map_err(Failure::from)?),
    };
    let new = NewApplication { name, group: body.group, texts };
    let (name, body) = api.store.create_application(&tenant, new).await?;
    let location = format!("/tekton/api/v1/applications/{name}");
    api.events.created(caller.correlation_id.as_str(), &tenant, &Scope::Application(name)).await;
    Ok(Created { location, body })
}

/// Lists the tenant's applications that the caller reaches, oldest first.
#[utoipa::path(
    get, path = "/tekton/api/v1/applications", tag = "applications", params(Part),
    responses(
        (status = 200, body = Vec<Application>), (status = 400, body = rest::ErrorBody),
        (status = 403, body = rest::ErrorBody),
    ),
)]
pub(super) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Query(part): Query<Part>,
) -> Result<Json<Vec<Application>>, Error> {
    if !(1..=LIST_MAX).contains(&part.limit) {
        return Err(Error::bad_request(format!("limit must be an integer from 1 to {LIST_MAX}")));
    }
    let tenant = caller.tenant_or(part.tenant_id)?;
    let (offset, limit) = (part.offset.into(), part.limit.into());
    Ok(Json(api.store.applications(&tenant, caller.applications(), offset, limit).await?))
}

/// One application with its versions.
#[utoipa::path(
    get, path = "/tekton/api/v1/applications/{appName}", tag = "applications",
    params(
        ("appName" = String, Path, description = "The application's name."),
        ("tenantId" = Option<String>, Query, description = "Another tenant: for administrators of the platform."),
    ),
    responses(
        (status = 200, body = Application), (status = 403, body = rest::ErrorBody),
        (status = 404, body = rest::ErrorBody),
    ),
)]
pub(super) async fn get(
    State(api): State<Api>,
    caller: Caller,
    Path(name): Path<ApplicationName>,
    parameters: Parameters,
) -> Result<Json<Application>, Error> {
    let tenant = caller.tenant_or(parameters.one("tenantId")?)?;
    Ok(Json(api.store.application(&tenant, &name).await?))
}

/// Changes display name and description. What is absent stays; `null` clears.
#[utoipa::path(
    patch, path = "/tekton/api/v1/applications/{appName}", tag = "applications",
    params(("appName" = String, Path, description = "The application's name.")), request_body = Texts,
    responses(
        (status = 200, body = Application),
        (status = 400, body = rest::ErrorBody), (status = 404, body = rest::ErrorBody),
    ),
)]
pub(super) async fn update(
    State(api): State<Api>,
    caller: Caller,
    Path(name): Path<ApplicationName>,
    Json(texts): Json<Texts>,
) -> Result<Json<Application>, Error> {
    texts.check().map_err(Failure::from)?;
    Ok(Json(api.store.update_application(&caller.tenant, &name, texts).await?))
}

/// Deletes an application with its configuration; with its versions only if `cascade=true`. Devices of it are
/// refused from then on; the endpoint register deletes its endpoints.
#[utoipa::path(
    delete, path = "/tekton/api/v1/applications/{appName}", tag = "applications",
    params(
        ("appName" = String, Path, description = "The application's name."),
        ("cascade" = Option<bool>, Query, description = "`true`: with all its versions. Default `false`."),
    ),
    responses(
        (status = 204, description = "It is deleted."), (status = 404, body = rest::ErrorBody),
        (status = 409, body = rest::ErrorBody, description = "It has versions, and `cascade` is not `true`."),
    ),
)]
pub(super) async fn delete(
    State(api): State<Api>,
    caller: Caller,
    Path(name): Path<ApplicationName>,
    parameters: Parameters,
) -> Result<StatusCode, Error> {
    let cascade = parameters.one("cascade")?.unwrap_or(false);
    api.store.delete_application(&caller.tenant, &name, cascade).await?;
    let deletion = Deletion {
        tenant_id: caller.tenant.to_string(),
        application_name: name.to_string(),
        app_version_name: String::new(),
    };
    api.events.deleted(caller.correlation_id.as_str(), deletion).await;
    Ok(StatusCode::NO_CONTENT)
}
