//! `/applications`

use axum::extract::State;
use ids::ApplicationName;
use rest::{Caller, Created, Error, Json, Path, Query};
use serde::Deserialize;
use utoipa::IntoParams;

use super::Api;
use crate::domain::{Application, Texts};

const LIST_MAX: u32 = 1_000;

/// Which part of the applications to list. Without parameters: all, as many as the limit allows.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Part {
    /// How many applications to skip.
    #[serde(default)]
    offset: u32,
    /// How many applications to list at most, from 1 to 1000.
    #[serde(default = "list_max")]
    #[param(minimum = 1, maximum = 1000, default = 1000)]
    limit: u32,
}

fn list_max() -> u32 {
    LIST_MAX
}

/// Makes an application. The platform makes its name; a `name` in the body is ignored, as Kaa does.
#[utoipa::path(
    post, path = "/tekton/api/v1/applications", tag = "applications", request_body = Texts,
    responses(
        (status = 201, body = Application, headers(("Location" = String, description = "The application's path."))),
        (status = 400, body = rest::ErrorBody), (status = 429, body = rest::ErrorBody),
    ),
)]
pub(super) async fn create(
    State(api): State<Api>,
    caller: Caller,
    Json(texts): Json<Texts>,
) -> Result<Created<Application>, Error> {
    texts.check().map_err(crate::error::Error::from)?;
    let (name, body) = api.store.create_application(&caller.tenant, texts).await?;
    api.events.created(caller.correlation_id.as_str(), &caller.tenant, &name, None).await;
    Ok(Created { location: format!("/tekton/api/v1/applications/{name}"), body })
}

/// Lists the tenant's applications, oldest first.
#[utoipa::path(
    get, path = "/tekton/api/v1/applications", tag = "applications", params(Part),
    responses((status = 200, body = Vec<Application>), (status = 400, body = rest::ErrorBody)),
)]
pub(super) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Query(part): Query<Part>,
) -> Result<Json<Vec<Application>>, Error> {
    if !(1..=LIST_MAX).contains(&part.limit) {
        return Err(Error::bad_request(format!("limit must be an integer from 1 to {LIST_MAX}")));
    }
    let found = api.store.applications(&caller.tenant, part.offset.into(), part.limit.into()).await?;
    Ok(Json(found))
}

/// One application with its versions.
#[utoipa::path(
    get, path = "/tekton/api/v1/applications/{appName}", tag = "applications",
    params(("appName" = String, Path, description = "The application's name.")),
    responses((status = 200, body = Application), (status = 404, body = rest::ErrorBody)),
)]
pub(super) async fn get(
    State(api): State<Api>,
    caller: Caller,
    Path(name): Path<ApplicationName>,
) -> Result<Json<Application>, Error> {
    Ok(Json(api.store.application(&caller.tenant, &name).await?))
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
    texts.check().map_err(crate::error::Error::from)?;
    Ok(Json(api.store.update_application(&caller.tenant, &name, texts).await?))
}
