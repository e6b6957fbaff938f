//! `/endpoints/batch`

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use ids::{ApplicationName, EndpointId, EndpointToken};
use rest::{Caller, Error, Json, Query};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;
use uuid::Uuid;

use super::Api;
use super::endpoints::VersionName;
use crate::batch::Wanted;
use crate::domain::BatchStatus;

/// Endpoints to register.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct BatchBody {
    app_version: VersionName,
    /// 1 to 1000.
    endpoints: Vec<BatchEndpoint>,
}

/// An endpoint to register; as for `POST /endpoints`.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct BatchEndpoint {
    #[schema(value_type = Option<String>)]
    endpoint_token: Option<EndpointToken>,
    #[schema(value_type = Option<String>)]
    endpoint_id: Option<EndpointId>,
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    metadata: Option<Map<String, Value>>,
}

/// A batch task.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Task {
    /// What to ask for the status with.
    task_id: Uuid,
}

/// Which task.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TaskQuery {
    app_name: ApplicationName,
    task_id: Uuid,
}

/// Takes an order to register endpoints: it is worked off in the background, also after a restart.
#[utoipa::path(
    post, path = "/epr/api/v1/endpoints/batch", tag = "endpoints", request_body = BatchBody,
    responses(
        (status = 202, body = Task, headers(("Location" = String, description = "The path of the status."))),
        (status = 400, body = rest::ErrorBody),
        (status = 404, body = rest::ErrorBody, description = "No such application version."),
        (status = 429, body = rest::ErrorBody, description = "Too many tasks of the tenant are not finished."),
    ),
)]
pub(super) async fn create(
    State(api): State<Api>,
    caller: Caller,
    Json(body): Json<BatchBody>,
) -> Result<Response, Error> {
    let version = api.updates.version(&caller.tenant, &body.app_version.name).await?;
    caller.check_application(&version.app_name)?;
    let wanted = body.endpoints.into_iter().map(|endpoint| Wanted {
        endpoint_id: endpoint.endpoint_id,
        token: endpoint.endpoint_token,
        metadata: endpoint.metadata.unwrap_or_default(),
    });
    let task_id = api.batches.add(caller.tenant, &version, wanted.collect()).await?;
    let location =
        format!("/epr/api/v1/endpoints/batch/status?appName={}&taskId={task_id}", version.app_name);
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(Task { task_id })).into_response())
}

/// How far a batch task is. Tokens are told for as long as the task is kept (24 h, `epr.batch_kept_hours`).
#[utoipa::path(
    get, path = "/epr/api/v1/endpoints/batch/status", tag = "endpoints",
    params(
        ("appName" = String, Query, description = "The application of the task's version."),
        ("taskId" = String, Query, description = "As `POST /endpoints/batch` answered."),
    ),
    responses((status = 200, body = BatchStatus), (status = 404, body = rest::ErrorBody)),
)]
pub(super) async fn status(
    State(api): State<Api>,
    caller: Caller,
    Query(task): Query<TaskQuery>,
) -> Result<Json<BatchStatus>, Error> {
    caller.check_application(&task.app_name)?;
    Ok(Json(api.batches.status(&caller.tenant, &task.app_name, task.task_id).await?))
}
