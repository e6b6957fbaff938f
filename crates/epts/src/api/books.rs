//! What became of the messages of an application.

use axum::extract::State;
use rest::{Caller, Error, ErrorBody, Json, Path};

use super::Api;
use crate::books::Balance;

/// The books of an application in this replica since it started.
#[utoipa::path(
    get, path = "/epts/api/v1/applications/{applicationName}/books", tag = "books",
    params(("applicationName" = String, Path, description = "The application")),
    responses(
        (status = 200, body = Balance),
        (status = 404, description = "The application does not exist", body = ErrorBody),
        (status = 503, description = "The application register does not answer", body = ErrorBody))
)]
pub(super) async fn of_application(
    State(api): State<Api>,
    caller: Caller,
    Path(application_name): Path<String>,
) -> Result<Json<Balance>, Error> {
    let (application_name, application) = api.application(&caller, &application_name).await?;
    // The books know no tenants: without the register nobody can tell whose they are.
    application.ok_or_else(|| Error::unavailable("the application register does not answer; try again"))?;
    Ok(Json(api.books.of(&application_name).balance()))
}
