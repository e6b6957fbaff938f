//! Lists of endpoints: `GET /endpoints`, `POST /endpoints/search`; and `POST /endpoints/delete`.

use axum::extract::State;
use ids::{AppVersionName, ApplicationName, EndpointId, TenantId};
use rest::{Caller, Error, Json, Page, Parameters};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::Api;
use crate::domain::Endpoint;
use crate::search::{CONDITIONS_MAX, Condition, Cursor, ENDPOINT_IDS_MAX, Filter, Operator, Pattern, View};

/// Endpoints in one page.
const LIMIT_MAX: u32 = 1_000;
const LIMIT_DEFAULT: u32 = 20;
/// Endpoints deleted by one request.
const DELETED_MAX: usize = 1_000;

/// A part of a list of endpoints.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct EndpointPage {
    /// How many endpoints there are in all pages together.
    total_elements: i64,
    /// The endpoints of this page.
    content: Vec<Endpoint>,
    /// What to give as `after` for the next page; absent in the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    next: Option<Cursor>,
}

/// What is searched for, before it is known what the caller reaches.
#[derive(Debug, PartialEq)]
pub(super) struct Search {
    tenant: Option<TenantId>,
    application: Option<ApplicationName>,
    filter_id: Option<String>,
    filter: Filter,
    view: View,
}

/// What to search for; all conditions hold together.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct SearchBody {
    /// The own tenant; any, for platform administrators.
    #[schema(value_type = Option<String>)]
    tenant_id: Option<TenantId>,
    #[schema(value_type = Option<String>)]
    application_name: Option<ApplicationName>,
    #[schema(value_type = Option<String>)]
    application_version_name: Option<AppVersionName>,
    /// Only these, up to 10000; absent: any.
    #[schema(value_type = Option<Vec<String>>)]
    endpoint_ids: Option<Vec<EndpointId>>,
    /// Conditions on metadata, up to 32.
    #[serde(default)]
    metadata: Vec<ConditionBody>,
    /// A text in the endpoint id or a metadata value, in any case of letters.
    multi_filter: Option<String>,
    /// `multiFilter` is a regular expression.
    #[serde(default)]
    regex: bool,
    /// Only endpoints that match this active filter.
    filter_id: Option<String>,
    /// `metadata`, `filters`
    #[serde(default)]
    include: Vec<String>,
    #[serde(default)]
    offset: u32,
    /// From 1 to 1000; 20 when absent.
    limit: Option<u32>,
    /// `next` of the page before; instead of `offset`.
    after: Option<String>,
    /// `createdDate,asc` (default) or `createdDate,desc`
    sort: Option<String>,
}

/// A condition on the value of a metadata key.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ConditionBody {
    key: String,
    #[serde(default = "eq")]
    operator: Operator,
    /// Any JSON value for `eq` and `ne`; a number or string for `gt`, `gte`, `lt`, `lte`; a string for `regex`; true (when
    /// absent) or false for `exists`.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    value: Value,
}

fn eq() -> Operator {
    Operator::Eq
}

impl Search {
    /// Reads the query parameters. Unknown ones and unknown things to include are ignored, as Kaa does.
    pub(super) fn from_parameters(
        page: Page,
        parameters: &Parameters,
        pairs: &[(String, String)],
    ) -> Result<Self, Error> {
        let regex = parameters.one::<bool>("regex")?.unwrap_or(false);
        let given = pairs.iter().filter(|(name, _)| name == "metadataFilter");
        let conditions: Vec<Condition> =
            given.map(|(_, text)| Condition::parse(text, regex)).collect::<Result<_, _>>()?;
        let text = parameters.text("multiFilter")?.map(|text| Pattern::new(text, regex)).transpose()?;
        let include: Vec<String> = parameters.list("include")?;
        let filter = Filter {
            applications: None,
            version: parameters.one("applicationVersionName")?,
            endpoint_ids: parameters.list("endpointId")?,
            conditions,
            text,
            matching: None,
        };
        let view =
            view(&include, parameters.text("sort")?, parameters.one("after")?, (page.offset, page.limit))?;
        let search = Self {
            tenant: parameters.one("tenantId")?,
            application: parameters.one("applicationName")?,
            filter_id: parameters.text("filterId")?.map(ToOwned::to_owned),
            filter,
            view,
        };
        search.bounded()
    }

    fn from_body(body: SearchBody) -> Result<Option<Self>, Error> {
        // Whoever asks for none of them must not be given all.
        if body.endpoint_ids.as_ref().is_some_and(Vec::is_empty) {
            return Ok(None);
        }
        let limit = body.limit.unwrap_or(LIMIT_DEFAULT);
        if !(1..=LIMIT_MAX).contains(&limit) {
            return Err(Error::bad_request(format!("limit must be an integer from 1 to {LIMIT_MAX}")));
        }
        let after = body.after.as_deref().map(str::parse).transpose();
        let after = after.map_err(|error| Error::bad_request(format!("after: {error}")))?;
        let conditions = body.metadata.into_iter();
        let conditions = conditions.map(|given| Condition::new(given.key, given.operator, given.value));
        let text = body.multi_filter.filter(|text| !text.is_empty());
        let filter = Filter {
            applications: None,
            version: body.application_version_name,
            endpoint_ids: body.endpoint_ids.unwrap_or_default(),
            conditions: conditions.collect::<Result<_, _>>()?,
            text: text.map(|text| Pattern::new(&text, body.regex)).transpose()?,
            matching: None,
        };
        let view = view(&body.include, body.sort.as_deref(), after, (body.offset, limit))?;
        let (tenant, application) = (body.tenant_id, body.application_name);
        let search = Self { tenant, application, filter_id: body.filter_id, filter, view };
        search.bounded().map(Some)
    }

    fn bounded(self) -> Result<Self, Error> {
        if self.filter.endpoint_ids.len() > ENDPOINT_IDS_MAX {
            return Err(Error::bad_request(format!(
                "a search may name {ENDPOINT_IDS_MAX} endpoints at most"
            )));
        }
        if self.filter.conditions.len() > CONDITIONS_MAX {
            return Err(Error::bad_request(format!(
                "a search may have {CONDITIONS_MAX} conditions on metadata at most"
            )));
        }
        Ok(self)
    }
}

fn view(
    include: &[String],
    sort: Option<&str>,
    after: Option<Cursor>,
    (offset, limit): (u32, u32),
) -> Result<View, Error> {
    let newest_first = match sort {
        None | Some("createdDate" | "createdDate,asc") => false,
        Some("createdDate,desc") => true,
        Some(_) => return Err(Error::bad_request("sort must be createdDate,asc or createdDate,desc")),
    };
    if after.is_some() && offset > 0 {
        return Err(Error::bad_request("after and offset exclude each other: leave offset out"));
    }
    let included = |part: &str| include.iter().any(|given| given == part);
    Ok(View {
        with_metadata: included("metadata"),
        with_filters: included("filters"),
        newest_first,
        after,
        offset: offset.into(),
        limit: limit.into(),
    })
}

/// Searches what the caller reaches.
pub(super) async fn run(api: &Api, caller: &Caller, search: Search) -> Result<EndpointPage, Error> {
    let Search { tenant, application, filter_id, mut filter, view } = search;
    let tenant = caller.tenant_or(tenant)?;
    if view.offset > api.list_offset_max {
        let max = api.list_offset_max;
        return Err(Error::bad_request(format!(
            "offset must be {max} at most (epr.list_offset_max): go on with after, which takes `next` of the page before"
        )));
    }
    let names_application = application.is_some();
    filter.applications = match application {
        Some(application) => {
            caller.check_application(&application)?;
            Some(vec![application])
        }
        None => caller.applications().map(|applications| applications.iter().cloned().collect()),
    };
    if let Some(filter_id) = filter_id {
        let matching = api.filters.store().active(&tenant, &filter_id).await?;
        caller.check_application(&matching.application)?;
        // Only endpoints of the filter's application match: said so, the index of the application serves.
        if !names_application {
            filter.applications = Some(vec![matching.application.clone()]);
        }
        filter.matching = Some(matching);
    }
    let selected = api.store.endpoints(&tenant, &filter, &view, api.list_metadata_bytes_max).await?;
    let mut content = selected.endpoints;
    if view.with_filters {
        let ids: Vec<String> = content.iter().map(|endpoint| endpoint.endpoint_id.clone()).collect();
        let mut matched = api.filters.store().filters_of(&ids).await?;
        for endpoint in &mut content {
            endpoint.filters = Some(matched.remove(&endpoint.endpoint_id).unwrap_or_default());
        }
    }
    Ok(EndpointPage { total_elements: selected.total, content, next: selected.next })
}

/// Lists the tenant's endpoints like `GET /endpoints`, with more and longer conditions.
#[utoipa::path(
    post, path = "/epr/api/v1/endpoints/search", tag = "endpoints", request_body = SearchBody,
    responses(
        (status = 200, body = EndpointPage), (status = 400, body = rest::ErrorBody),
        (status = 404, body = rest::ErrorBody, description = "No such filter."),
        (status = 409, body = rest::ErrorBody, description = "The filter is not active yet."),
    ),
)]
pub(super) async fn search(
    State(api): State<Api>,
    caller: Caller,
    Json(body): Json<SearchBody>,
) -> Result<Json<EndpointPage>, Error> {
    match Search::from_body(body)? {
        Some(search) => run(&api, &caller, search).await.map(Json),
        None => Ok(Json(EndpointPage { total_elements: 0, content: Vec::new(), next: None })),
    }
}

/// Endpoints to delete.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct DeleteBody {
    /// 1 to 1000.
    #[schema(value_type = Vec<String>)]
    endpoint_ids: Vec<EndpointId>,
}

/// What became of endpoints that were to be deleted.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Deleted {
    deleted_count: usize,
    failed_count: usize,
    failed: Vec<NotDeleted>,
}

/// An endpoint that is not deleted.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct NotDeleted {
    #[schema(value_type = String)]
    endpoint_id: EndpointId,
    /// As `DELETE` of this endpoint would answer: 403, 404, 503 (hidden, and deleted later).
    status_code: u16,
    reason_phrase: String,
}

/// Deletes endpoints, each for itself, as `DELETE` does.
#[utoipa::path(
    post, path = "/epr/api/v1/endpoints/delete", tag = "endpoints", request_body = DeleteBody,
    responses((status = 200, body = Deleted), (status = 400, body = rest::ErrorBody)),
)]
pub(super) async fn delete(
    State(api): State<Api>,
    caller: Caller,
    Json(body): Json<DeleteBody>,
) -> Result<Json<Deleted>, Error> {
    let mut endpoint_ids = body.endpoint_ids;
    if endpoint_ids.is_empty() || endpoint_ids.len() > DELETED_MAX {
        return Err(Error::bad_request(format!("endpointIds must name 1 to {DELETED_MAX} endpoints")));
    }
    endpoint_ids.sort_unstable();
    endpoint_ids.dedup();
    let total = endpoint_ids.len();
    let mut failed = Vec::new();
    if caller.applications().is_some() {
        let applications = api.store.applications_of(&caller.tenant, &endpoint_ids).await?;
        endpoint_ids.retain(|endpoint_id| {
            let allowed =
                applications.get(endpoint_id).map_or(Ok(()), |found| caller.check_application(found));
            let refused = allowed.map_err(|error| failed.push(not_deleted(endpoint_id.clone(), &error)));
            refused.is_ok()
        });
    }
    let correlation_id = caller.correlation_id.to_string();
    let results = api.remover.delete_all(correlation_id, caller.tenant, endpoint_ids).await?;
    failed.extend(results.into_iter().map(|(endpoint_id, error)| not_deleted(endpoint_id, &error.into())));
    Ok(Json(Deleted { deleted_count: total - failed.len(), failed_count: failed.len(), failed }))
}

fn not_deleted(endpoint_id: EndpointId, error: &Error) -> NotDeleted {
    let message = error.message();
    let reason =
        if message.is_empty() { "internal error: look into the log of the service" } else { message };
    NotDeleted { endpoint_id, status_code: error.status().as_u16(), reason_phrase: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::Test;
    use serde_json::json;

    fn read(parameters: &[(&str, &str)]) -> Result<Search, String> {
        let pairs: Vec<_> =
            parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let parameters: Parameters = parameters.iter().copied().collect();
        Search::from_parameters(Page { offset: 0, limit: 20 }, &parameters, &pairs)
            .map_err(|error| error.message().to_owned())
    }

    fn posted(body: Value) -> Result<Option<Search>, String> {
        let body: SearchBody = serde_json::from_value(body).map_err(|error| error.to_string())?;
        Search::from_body(body).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn parameters_may_be_repeated() {
        let found = read(&[
            ("endpointId", "a,b"),
            ("endpointId", "c"),
            ("include", "filters,metadata"),
            ("metadataFilter", "city:Kyiv, center"),
            ("metadataFilter", "floor:3"),
            ("sort", "createdDate,desc"),
            ("x", "y"),
        ]);
        let Search { filter, view, .. } = found.unwrap();
        assert_eq!(filter.endpoint_ids.iter().map(EndpointId::as_str).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(filter.conditions[0].test, Test::Equals(json!("Kyiv, center")));
        assert_eq!(filter.conditions.len(), 2);
        assert!(view.with_metadata && view.with_filters && view.newest_first);
    }

    #[test]
    fn bad_parameters_are_refused() {
        assert!(read(&[("applicationName", "a b")]).unwrap_err().contains("application name"));
        assert!(read(&[("applicationVersionName", "")]).unwrap_err().contains("version name"));
        assert!(read(&[("endpointId", "a/b")]).unwrap_err().contains("endpoint id"));
        assert!(read(&[("after", "x")]).unwrap_err().contains("next"));
        assert!(read(&[("regex", "yes")]).unwrap_err().contains("regex"));
        assert!(read(&[("sort", "name")]).unwrap_err().contains("createdDate"));
        assert!(read(&[("metadataFilter", "x")]).unwrap_err().contains("colon"));
        assert!(read(&[("metadataFilter", "x:1"); 33]).unwrap_err().contains("32"));
    }

    #[test]
    fn a_body_says_the_same_and_more() {
        let search = posted(json!({
            "applicationName": "app", "endpointIds": ["a"], "limit": 5, "include": ["metadata"],
            "metadata": [{"key": "floor", "operator": "gte", "value": 3}, {"key": "city", "value": "Kyiv"}],
        }));
        let search = search.unwrap().unwrap();
        assert_eq!((search.view.limit, search.filter.conditions.len()), (5, 2));
        assert_eq!(posted(json!({"endpointIds": []})), Ok(None));
        assert!(posted(json!({"endpointIDs": []})).unwrap_err().contains("unknown field"));
        assert!(posted(json!({"limit": 0})).unwrap_err().contains("1 to 1000"));
        assert!(posted(json!({"offset": 1, "after": "1.a"})).unwrap_err().contains("exclude"));
    }
}
