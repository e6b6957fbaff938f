//! `/applications/{applicationName}/filters`

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use ids::ApplicationName;
use rest::{Caller, Created, Error, IfMatch, Json, Page, PageOf, Parameters, Path};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::Filters;
use super::definition::{Filter, FilterPatch, NewFilter};

/// The routes of filters.
pub(crate) fn routes(filters: Filters) -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(get, patch, delete)).with_state(filters)
}

/// Lists the filters of an application, oldest first.
#[utoipa::path(
    get, path = "/epr/api/v1/applications/{applicationName}/filters", tag = "filters",
    params(
        ("applicationName" = String, Path, description = "The application."),
        ("name" = Option<String>, Query, description = "Only the filter of exactly this name."),
        Page,
    ),
    responses(
        (status = 200, body = PageOf<Filter>),
        (status = 404, body = rest::ErrorBody, description = "No such application."),
    ),
)]
pub(super) async fn list(
    State(filters): State<Filters>,
    caller: Caller,
    Path(application): Path<ApplicationName>,
    page: Page,
    parameters: Parameters,
) -> Result<Json<PageOf<Filter>>, Error> {
    let name = parameters.text("name")?;
    let (offset, limit) = (page.offset.into(), page.limit.into());
    let (total_elements, content) = filters.list(&caller.tenant, &application, name, offset, limit).await?;
    Ok(Json(PageOf { total_elements, content }))
}

/// Creates a filter.
///
/// It is PENDING until all endpoints of the application have been looked at, then ACTIVE, and from the beginning each
/// change of an endpoint is followed.
#[utoipa::path(
    post, path = "/epr/api/v1/applications/{applicationName}/filters", tag = "filters",
    params(("applicationName" = String, Path, description = "The application.")),
    request_body = NewFilter,
    responses(
        (status = 201, body = Filter, headers(
            ("Location" = String, description = "The filter's path."),
            ("ETag" = String, description = "For `If-Match`."),
        )),
        (status = 400, body = rest::ErrorBody, description = "The query is not understood; the message names the place."),
        (status = 404, body = rest::ErrorBody, description = "No such application."),
        (status = 409, body = rest::ErrorBody, description = "The name is taken, or there are as many filters as allowed."),
    ),
)]
pub(super) async fn create(
    State(filters): State<Filters>,
    caller: Caller,
    Path(application): Path<ApplicationName>,
    Json(new): Json<NewFilter>,
) -> Result<Response, Error> {
    let path = format!("/epr/api/v1/applications/{application}/filters");
    let filter = filters.create(caller.correlation_id.to_string(), caller.tenant, application, new).await?;
    let location = format!("{path}/{}", filter.id);
    Ok(rest::tagged(&filter.tag(), Created { location, body: filter }))
}

/// One filter.
#[utoipa::path(
    get, path = "/epr/api/v1/applications/{applicationName}/filters/{filterId}", tag = "filters",
    params(
        ("applicationName" = String, Path, description = "The application."),
        ("filterId" = String, Path, description = "The filter's id."),
    ),
    responses(
        (status = 200, body = Filter, headers(("ETag" = String, description = "For `If-Match`."))),
        (status = 404, body = rest::ErrorBody),
    ),
)]
pub(super) async fn get(
    State(filters): State<Filters>,
    caller: Caller,
    Path((application, filter_id)): Path<(ApplicationName, String)>,
) -> Result<Response, Error> {
    let filter = filters.get(&caller.tenant, &application, id(&filter_id)?).await?;
    Ok(rest::tagged(&filter.tag(), Json(filter)))
}

/// Changes name, description or query of a filter.
///
/// With another query the filter is PENDING again until all endpoints have been looked at.
#[utoipa::path(
    patch, path = "/epr/api/v1/applications/{applicationName}/filters/{filterId}", tag = "filters",
    params(
        ("applicationName" = String, Path, description = "The application."),
        ("filterId" = String, Path, description = "The filter's id."),
        ("If-Match" = Option<String>, Header, description = "The `ETag` of the filter to change."),
    ),
    request_body = FilterPatch,
    responses(
        (status = 200, body = Filter, headers(("ETag" = String, description = "For `If-Match`."))),
        (status = 400, body = rest::ErrorBody, description = "The query is not understood; the message names the place."),
        (status = 404, body = rest::ErrorBody),
        (status = 409, body = rest::ErrorBody, description = "The name is taken."),
        (status = 412, body = rest::ErrorBody, description = "The filter changed meanwhile."),
    ),
)]
pub(super) async fn patch(
    State(filters): State<Filters>,
    caller: Caller,
    Path((application, filter_id)): Path<(ApplicationName, String)>,
    if_match: IfMatch,
    Json(patch): Json<FilterPatch>,
) -> Result<Response, Error> {
    let correlation_id = caller.correlation_id.to_string();
    let id = id(&filter_id)?;
    let filter = filters.update(correlation_id, caller.tenant, application, id, patch, if_match).await?;
    Ok(rest::tagged(&filter.tag(), Json(filter)))
}

/// Deletes a filter.
#[utoipa::path(
    delete, path = "/epr/api/v1/applications/{applicationName}/filters/{filterId}", tag = "filters",
    params(
        ("applicationName" = String, Path, description = "The application."),
        ("filterId" = String, Path, description = "The filter's id."),
        ("If-Match" = Option<String>, Header, description = "The `ETag` of the filter to delete."),
    ),
    responses(
        (status = 204),
        (status = 404, body = rest::ErrorBody),
        (status = 412, body = rest::ErrorBody, description = "The filter changed meanwhile."),
    ),
)]
pub(super) async fn delete(
    State(filters): State<Filters>,
    caller: Caller,
    Path((application, filter_id)): Path<(ApplicationName, String)>,
    if_match: IfMatch,
) -> Result<StatusCode, Error> {
    let correlation_id = caller.correlation_id.to_string();
    filters.delete(correlation_id, caller.tenant, application, id(&filter_id)?, if_match).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What is no id is the id of no filter.
fn id(filter_id: &str) -> Result<Uuid, super::Error> {
    Uuid::try_parse(filter_id).map_err(|_| super::Error::UnknownFilter(filter_id.to_owned()))
}
