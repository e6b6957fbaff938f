//! `/endpoints`

use axum::extract::State;
use ids::{AppVersionName, EndpointId, EndpointToken};
use rest::{Caller, Created, Error, Json, Page, PageOf, Parameters, Path};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::Api;
use crate::domain::{Endpoint, Registered};
use crate::registration::Wish;
use crate::store::Filter;

const ENDPOINT_IDS_MAX: usize = 1_000;

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
    /// Relations to other endpoints: not supported yet, must be absent or empty.
    #[serde(default)]
    #[schema(value_type = Option<Vec<Object>>)]
    relations: Option<Vec<IgnoredAny>>,
}

/// An application version by name.
#[derive(Deserialize, ToSchema)]
pub(super) struct VersionName {
    #[schema(value_type = String)]
    name: AppVersionName,
}

/// Registers an endpoint and makes its first token, which is told in the answer and never again.
///
/// With an `endpointId` the request may be repeated after a 503: it registers once, and is refused with 409
/// from then on.
#[utoipa::path(
    post, path = "/epr/api/v1/endpoints", tag = "endpoints", request_body = NewEndpointBody,
    responses(
        (status = 201, body = Registered, headers(("Location" = String, description = "The endpoint's path."))),
        (status = 400, body = rest::ErrorBody),
        (status = 404, body = rest::ErrorBody, description = "No such application version."),
        (status = 409, body = rest::ErrorBody, description = "The endpoint id or the token is taken."),
        (status = 503, body = rest::ErrorBody, description = "Nothing was registered; try again."),
    ),
)]
pub(super) async fn create(
    State(api): State<Api>,
    caller: Caller,
    Json(body): Json<NewEndpointBody>,
) -> Result<Created<Registered>, Error> {
    if body.relations.is_some_and(|relations| !relations.is_empty()) {
        return Err(Error::bad_request("relations are not supported yet: leave them out"));
    }
    let wish = Wish {
        version: body.app_version.name,
        endpoint_id: body.endpoint_id,
        token: body.endpoint_token,
        metadata: body.metadata.unwrap_or_default(),
    };
    let body = api.registrar.register(caller.correlation_id.to_string(), caller.tenant, wish).await?;
    Ok(Created { location: format!("/epr/api/v1/endpoints/{}", body.endpoint.endpoint_id), body })
}

/// Lists the tenant's endpoints, oldest first.
#[utoipa::path(
    get, path = "/epr/api/v1/endpoints", tag = "endpoints",
    params(
        ("applicationName" = Option<String>, Query, description = "Only endpoints of this application."),
        ("applicationVersionName" = Option<String>, Query, description = "Only endpoints of this version."),
        ("endpointId" = Option<Vec<String>>, Query, description = "Only these, up to 1000; repeated or by comma."),
        ("include" = Option<String>, Query, description = "`metadata`: with metadata."),
        Page,
    ),
    responses((status = 200, body = PageOf<Endpoint>), (status = 400, body = rest::ErrorBody)),
)]
pub(super) async fn list(
    State(api): State<Api>,
    caller: Caller,
    page: Page,
    parameters: Parameters,
) -> Result<Json<PageOf<Endpoint>>, Error> {
    let filter = filter(&parameters)?;
    let (total_elements, content) =
        api.store.endpoints(&caller.tenant, &filter, page.offset.into(), page.limit.into()).await?;
    Ok(Json(PageOf { total_elements, content }))
}

/// One endpoint.
#[utoipa::path(
    get, path = "/epr/api/v1/endpoints/{endpointId}", tag = "endpoints",
    params(
        ("endpointId" = String, Path, description = "The endpoint's id."),
        ("include" = Option<String>, Query, description = "`metadata`: with metadata."),
    ),
    responses((status = 200, body = Endpoint), (status = 404, body = rest::ErrorBody)),
)]
pub(super) async fn get(
    State(api): State<Api>,
    caller: Caller,
    Path(endpoint_id): Path<EndpointId>,
    parameters: Parameters,
) -> Result<Json<Endpoint>, Error> {
    let with_metadata = filter(&parameters)?.with_metadata;
    Ok(Json(api.store.endpoint(&caller.tenant, &endpoint_id, with_metadata).await?))
}

/// Reads the filter out of the query. Unknown parameters and unknown things to include are ignored, as Kaa does; those
/// of Kaa that would select and that are not there yet are refused.
fn filter(parameters: &Parameters) -> Result<Filter, Error> {
    // Whoever acts on "all that match" must not be given simply all.
    for unsupported in ["filterId", "metadataFilter", "multiFilter", "regex", "tenantId"] {
        if parameters.text(unsupported)?.is_some() {
            return Err(Error::bad_request(format!("{unsupported} is not supported yet; leave it out")));
        }
    }
    let endpoint_ids: Vec<EndpointId> = parameters.list("endpointId")?;
    if endpoint_ids.len() > ENDPOINT_IDS_MAX {
        return Err(Error::bad_request(format!("endpointId may name {ENDPOINT_IDS_MAX} endpoints at most")));
    }
    Ok(Filter {
        application: parameters.one("applicationName")?,
        version: parameters.one("applicationVersionName")?,
        endpoint_ids,
        with_metadata: parameters.list::<String>("include")?.iter().any(|part| part == "metadata"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(parameters: &[(&str, &str)]) -> Result<Filter, String> {
        filter(&parameters.iter().copied().collect()).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn endpoint_ids_may_be_repeated_and_joined_by_commas() {
        let found =
            read(&[("endpointId", "a,b"), ("endpointId", "c"), ("include", "filters,metadata"), ("x", "y")]);
        let found = found.unwrap();
        assert_eq!(found.endpoint_ids.iter().map(EndpointId::as_str).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert!(found.with_metadata);
    }

    #[test]
    fn bad_names_are_refused() {
        assert!(read(&[("applicationName", "a b")]).unwrap_err().contains("application name"));
        assert!(read(&[("applicationVersionName", "")]).unwrap_err().contains("version name"));
        assert!(read(&[("endpointId", "a/b")]).unwrap_err().contains("endpoint id"));
        assert!(read(&[("filterId", "f")]).unwrap_err().contains("filterId is not supported"));
        assert!(read(&[("endpointId", &"a,".repeat(1_001))]).unwrap_err().contains("1000"));
    }
}
