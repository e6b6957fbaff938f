//! `/endpoints` and `/endpoints/{endpointId}`

use axum::extract::State;
use axum::http::StatusCode;
use ids::{AppVersionName, EndpointId, EndpointToken, TenantId};
use rest::{Caller, Created, Error, Json, Page, Parameters, Path, Query};
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::Api;
use super::search::{EndpointPage, Search, run};
use crate::domain::{Endpoint, NewRelation, Registered};
use crate::registration::Wish;

/// The longest `group`, in bytes.
const GROUP_BYTES_MAX: usize = 128;
/// Relations of one new endpoint.
const RELATIONS_MAX: usize = 100;

/// An endpoint to register.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct NewEndpointBody {
    app_version: VersionName,
    /// An object of any values; keys match `^[a-zA-Z0-9_]+$`.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    metadata: Option<Map<String, Value>>,
    /// `^[^+#/.]+$`, unique within the application; generated when absent.
    #[schema(value_type = Option<String>)]
    endpoint_token: Option<EndpointToken>,
    /// `^[a-zA-Z0-9._~-]+$`, unique in the platform; a UUID when absent.
    #[schema(value_type = Option<String>)]
    endpoint_id: Option<EndpointId>,
    /// Relations to endpoints that there are, 100 at most.
    #[serde(default)]
    relations: Option<Vec<NewRelation>>,
    /// A label that the endpoint shows as `group`, up to 128 bytes; also as a query parameter.
    #[serde(default)]
    group: Option<String>,
}

/// An application version by name.
#[derive(Deserialize, ToSchema)]
pub(super) struct VersionName {
    #[schema(value_type = String)]
    pub(super) name: AppVersionName,
}

/// Registers an endpoint and makes its first token, which is told in the answer and never again.
///
/// With an `endpointId` the request may be repeated after a 503: it registers once, and is refused with 409
/// from then on.
#[utoipa::path(
    post, path = "/epr/api/v1/endpoints", tag = "endpoints", request_body = NewEndpointBody,
    params(("group" = Option<String>, Query, description = "As `group` in the body, which wins.")),
    responses(
        (status = 201, body = Registered, headers(("Location" = String, description = "The endpoint's path."))),
        (status = 400, body = rest::ErrorBody),
        (status = 404, body = rest::ErrorBody, description = "No such application version, or end of a relation."),
        (status = 409, body = rest::ErrorBody, description = "The endpoint id or the token is taken."),
        (status = 503, body = rest::ErrorBody, description = "Nothing was registered; try again."),
    ),
)]
pub(super) async fn create(
    State(api): State<Api>,
    caller: Caller,
    parameters: Parameters,
    Json(body): Json<NewEndpointBody>,
) -> Result<Created<Registered>, Error> {
    let group = body.group.or(parameters.text("group")?.map(ToOwned::to_owned));
    if group.as_ref().is_some_and(|group| group.len() > GROUP_BYTES_MAX || group.contains('\0')) {
        return Err(Error::bad_request(format!(
            "group must have {GROUP_BYTES_MAX} bytes at most, and no NUL"
        )));
    }
    let relations = body.relations.unwrap_or_default();
    if relations.len() > RELATIONS_MAX {
        return Err(Error::bad_request(format!("relations may name {RELATIONS_MAX} endpoints at most")));
    }
    let version = api.updates.version(&caller.tenant, &body.app_version.name).await?;
    caller.check_application(&version.app_name)?;
    for other in relations.iter().filter_map(NewRelation::other) {
        api.admit(&caller, other).await?;
    }
    let wish = Wish {
        version: body.app_version.name,
        endpoint_id: body.endpoint_id,
        token: body.endpoint_token,
        metadata: body.metadata.unwrap_or_default(),
        group,
        relations,
    };
    let body = api.registrar.register(caller.correlation_id.to_string(), caller.tenant, wish).await?;
    Ok(Created { location: format!("/epr/api/v1/endpoints/{}", body.endpoint.endpoint_id), body })
}

/// Lists the tenant's endpoints, oldest first. All conditions hold together.
#[utoipa::path(
    get, path = "/epr/api/v1/endpoints", tag = "endpoints",
    params(
        ("tenantId" = Option<String>, Query, description = "The own tenant; any, for platform administrators."),
        ("applicationName" = Option<String>, Query, description = "Only endpoints of this application."),
        ("applicationVersionName" = Option<String>, Query, description = "Only endpoints of this version."),
        ("endpointId" = Option<Vec<String>>, Query, description = "Only these, up to 10000; repeated or by comma."),
        ("metadataFilter" = Option<Vec<String>>, Query,
            description = "`key:value`, repeated: only endpoints whose metadata has this value, a text or JSON scalar."),
        ("multiFilter" = Option<String>, Query,
            description = "Only endpoints with this text in their id or a metadata value, in any case of letters."),
        ("regex" = Option<bool>, Query,
            description = "The values of metadataFilter and multiFilter are regular expressions (case matters)."),
        ("filterId" = Option<String>, Query, description = "Only endpoints that match this active filter."),
        ("include" = Option<Vec<String>>, Query, description = "`metadata`, `filters`."),
        ("sort" = Option<String>, Query, description = "`createdDate,asc` (default) or `createdDate,desc`."),
        ("after" = Option<String>, Query, description = "`next` of the page before; instead of `offset`."),
        Page,
    ),
    responses(
        (status = 200, body = EndpointPage), (status = 400, body = rest::ErrorBody),
        (status = 404, body = rest::ErrorBody, description = "No such filter."),
        (status = 409, body = rest::ErrorBody, description = "The filter is not active yet."),
    ),
)]
pub(super) async fn list(
    State(api): State<Api>,
    caller: Caller,
    page: Page,
    parameters: Parameters,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Result<Json<EndpointPage>, Error> {
    let search = Search::from_parameters(page, &parameters, &pairs)?;
    run(&api, &caller, search).await.map(Json)
}

/// One endpoint.
#[utoipa::path(
    get, path = "/epr/api/v1/endpoints/{endpointId}", tag = "endpoints",
    params(
        ("endpointId" = String, Path, description = "The endpoint's id."),
        ("tenantId" = Option<String>, Query, description = "The own tenant; any, for platform administrators."),
        ("include" = Option<Vec<String>>, Query, description = "`metadata`, `filters`."),
    ),
    responses((status = 200, body = Endpoint), (status = 404, body = rest::ErrorBody)),
)]
pub(super) async fn get(
    State(api): State<Api>,
    caller: Caller,
    Path(endpoint_id): Path<EndpointId>,
    parameters: Parameters,
) -> Result<Json<Endpoint>, Error> {
    let tenant = caller.tenant_or(parameters.one::<TenantId>("tenantId")?)?;
    api.admit(&caller, &endpoint_id).await?;
    let include: Vec<String> = parameters.list("include")?;
    let included = |part: &str| include.iter().any(|given| given == part);
    let mut endpoint = api.store.endpoint(&tenant, &endpoint_id, included("metadata")).await?;
    if included("filters") {
        let mut matched = api.filters.store().filters_of(&[endpoint_id.to_string()]).await?;
        endpoint.filters = Some(matched.remove(endpoint_id.as_str()).unwrap_or_default());
    }
    Ok(Json(endpoint))
}

/// Deletes an endpoint, with its tokens and all that other services keep for it.
///
/// From the first moment nobody sees it any more. 503 means that its tokens are not deleted yet: that goes on by itself,
/// and the request may be repeated until it is answered with 204, also when the endpoint is gone already.
#[utoipa::path(
    delete, path = "/epr/api/v1/endpoints/{endpointId}", tag = "endpoints",
    params(("endpointId" = String, Path, description = "The endpoint's id.")),
    responses(
        (status = 204, description = "It is gone."),
        (status = 404, body = rest::ErrorBody),
        (status = 503, body = rest::ErrorBody, description = "It is hidden, and will be gone."),
    ),
)]
pub(super) async fn delete(
    State(api): State<Api>,
    caller: Caller,
    Path(endpoint_id): Path<EndpointId>,
) -> Result<StatusCode, Error> {
    if caller.applications().is_some() {
        let ids = std::slice::from_ref(&endpoint_id);
        let applications = api.store.applications_of(&caller.tenant, ids).await?;
        let application = applications.get(&endpoint_id);
        let unknown = || crate::error::Error::UnknownEndpoint(endpoint_id.clone());
        caller.check_application(application.ok_or_else(unknown)?)?;
    }
    api.remover.delete(caller.correlation_id.to_string(), caller.tenant, endpoint_id).await?;
    Ok(StatusCode::NO_CONTENT)
}
