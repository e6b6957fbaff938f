//! Reading time series.

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::State;
use ids::{ApplicationName, EndpointId, TimeSeriesName};
use rest::{Caller, Error, ErrorBody, Json, Path};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Api;
use super::parameters::Parameters;
use crate::date;
use crate::extraction::Series;
use crate::point::DEFAULT_VALUE_NAME;
use crate::reads::{Answer, PointView, Selection};

/// One object for each endpoint that has points: endpoint id to series name to points.
pub(crate) type TimeSeriesPayload = Vec<BTreeMap<String, BTreeMap<String, Vec<PointView>>>>;

/// A time series of an application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct SeriesConfig {
    /// Its name; `auto~<field>` when extracted automatically.
    name: String,
    /// The names of its values; null when only the data can tell.
    values: Option<Vec<String>>,
}

/// Which last points are wanted; the form for long lists.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct LastRequest {
    /// Absent or empty: all series.
    #[schema(value_type = Vec<String>)]
    time_series_names: Vec<TimeSeriesName>,
    /// Absent or empty: all endpoints.
    #[serde(rename = "endpointIDs")]
    #[schema(value_type = Vec<String>)]
    endpoint_ids: Vec<EndpointId>,
    /// Only points before this moment: ISO-8601 or relative like `now-1h`.
    before_date: Option<String>,
    /// How many endpoints to skip, in the order of their ids.
    offset: u32,
    /// How many endpoints to return at most.
    limit: Option<u32>,
}

/// The time series of applications: the configured ones and those that have data.
#[utoipa::path(
    get, path = "/epts/api/v1/time-series/config", tag = "time series",
    params(("applicationNames" = Option<Vec<String>>, Query,
        description = "Only these applications; repeated or separated by commas. Absent: all that have data.")),
    responses(
        (status = 200, description = "By application name", body = BTreeMap<String, Vec<SeriesConfig>>),
        (status = 404, description = "An application does not exist", body = ErrorBody))
)]
pub(super) async fn config(
    State(api): State<Api>,
    caller: Caller,
    parameters: rest::Parameters,
) -> Result<Json<BTreeMap<String, Vec<SeriesConfig>>>, Error> {
    let names = parameters.list::<ApplicationName>("applicationNames")?;
    let is_named = !names.is_empty();
    let names: Vec<String> = if is_named {
        names.iter().map(ToString::to_string).collect()
    } else {
        let mut all = api.reads.applications(&caller.tenant).await?;
        if let Some(reached) = caller.applications() {
            all.retain(|name| reached.iter().any(|reached| reached.as_str() == name));
        }
        all
    };
    let mut config = BTreeMap::new();
    for name in names {
        let application = match api.application(&caller, &name).await {
            Ok((_, application)) => application,
            // It has data but is no more.
            Err(_) if !is_named => None,
            Err(error) => return Err(error),
        };
        let settings =
            application.as_ref().and_then(|application| application.config.extraction.as_ref().ok());
        let configured = settings.map(|settings| settings.series.as_slice()).unwrap_or_default();
        let seen = api.reads.series_names(&caller.tenant, &name).await?;
        config.insert(name, describe(configured, seen));
    }
    Ok(Json(config))
}

fn describe(configured: &[Series], seen: Vec<String>) -> Vec<SeriesConfig> {
    let names: BTreeSet<&str> = configured.iter().map(|series| series.name.as_str()).collect();
    let others = seen.iter().filter(|name| !names.contains(name.as_str())).map(|name| SeriesConfig {
        name: name.clone(),
        values: name.starts_with("auto~").then(|| vec![DEFAULT_VALUE_NAME.to_owned()]),
    });
    let configured = configured.iter().map(|series| SeriesConfig {
        name: series.name.to_string(),
        values: Some(series.values.iter().map(|value| value.name.clone()).collect()),
    });
    configured.chain(others).collect()
}

/// The last point of each time series.
#[utoipa::path(
    get, path = "/epts/api/v1/applications/{applicationName}/time-series/last", tag = "time series",
    params(
        ("applicationName" = String, Path, description = "The application"),
        ("timeSeriesName" = Vec<String>, Query, description = "At least one; repeated or separated by commas"),
        ("endpointId" = Option<Vec<String>>, Query, description = "Absent: all endpoints of the application"),
        ("beforeDate" = Option<String>, Query, description = "Only points before this moment; ISO-8601 or like now-1h")),
    responses(
        (status = 200, body = TimeSeriesPayload),
        (status = 400, description = "A parameter is wrong, or there are too many points or bytes", body = ErrorBody),
        (status = 404, description = "The application does not exist", body = ErrorBody),
        (status = 503, description = "Too many large queries are being answered", body = ErrorBody))
)]
pub(super) async fn last(
    State(api): State<Api>,
    caller: Caller,
    Path(application_name): Path<String>,
    parameters: Parameters,
) -> Result<Json<TimeSeriesPayload>, Error> {
    let (series, endpoints) = (parameters.series()?, parameters.endpoints()?);
    let before = parameters.date("beforeDate")?;
    let (application_name, _) = api.application(&caller, &application_name).await?;
    let selection = Selection { tenant_id: caller.tenant, application_name, series, endpoints };
    Ok(payload(api.reads.last(&selection, before, (0, None)).await?))
}

/// The last point of each time series, for long lists and in pages of endpoints.
#[utoipa::path(
    post, path = "/epts/api/v1/applications/{applicationName}/time-series/last", tag = "time series",
    params(("applicationName" = String, Path, description = "The application")),
    request_body = LastRequest,
    responses(
        (status = 200, body = TimeSeriesPayload),
        (status = 400, description = "The body is wrong, or there are too many points or bytes", body = ErrorBody),
        (status = 404, description = "The application does not exist", body = ErrorBody),
        (status = 503, description = "Too many large queries are being answered", body = ErrorBody))
)]
pub(super) async fn last_of_list(
    State(api): State<Api>,
    caller: Caller,
    Path(application_name): Path<String>,
    Json(request): Json<LastRequest>,
) -> Result<Json<TimeSeriesPayload>, Error> {
    let parse = |text: &String| date::parse("beforeDate", text, chrono::Utc::now());
    let before = request.before_date.as_ref().map(parse).transpose();
    let before = before.map_err(|error| Error::bad_request(error.to_string()))?;
    let (application_name, _) = api.application(&caller, &application_name).await?;
    let selection = Selection {
        tenant_id: caller.tenant,
        application_name,
        series: request.time_series_names,
        endpoints: request.endpoint_ids,
    };
    Ok(payload(api.reads.last(&selection, before, (request.offset, request.limit)).await?))
}

/// The points of time series in a range of time.
#[utoipa::path(
    get, path = "/epts/api/v1/applications/{applicationName}/time-series/data", tag = "time series",
    params(
        ("applicationName" = String, Path, description = "The application"),
        ("timeSeriesName" = Vec<String>, Query, description = "At least one; repeated or separated by commas"),
        ("endpointId" = Option<Vec<String>>, Query, description = "Absent: all endpoints of the application"),
        ("fromDate" = String, Query, description = "ISO-8601 or relative like now-7d"),
        ("toDate" = String, Query, description = "ISO-8601 or relative like now"),
        ("includeTime" = Option<String>, Query, description = "Which ends belong to the range: from (default), to, both, none"),
        ("sort" = Option<String>, Query, description = "By timestamp: ASC (default), DESC"),
        ("limit" = Option<u32>, Query, description = "At most so many points of each series, from the start of the order")),
    responses(
        (status = 200, body = TimeSeriesPayload),
        (status = 400, description = "A parameter is wrong, or there are too many points or bytes", body = ErrorBody),
        (status = 404, description = "The application does not exist", body = ErrorBody),
        (status = 503, description = "Too many large queries are being answered", body = ErrorBody))
)]
pub(super) async fn data(
    State(api): State<Api>,
    caller: Caller,
    Path(application_name): Path<String>,
    parameters: Parameters,
) -> Result<Json<TimeSeriesPayload>, Error> {
    let (series, endpoints) = (parameters.series()?, parameters.endpoints()?);
    let (span, sort, limit) = (parameters.span()?, parameters.sort()?, parameters.limit()?);
    let (application_name, _) = api.application(&caller, &application_name).await?;
    let selection = Selection { tenant_id: caller.tenant, application_name, series, endpoints };
    Ok(payload(api.reads.range(&selection, span, sort, limit).await?))
}

fn payload(answer: Answer) -> Json<TimeSeriesPayload> {
    Json(answer.points.into_iter().map(|(endpoint, series)| BTreeMap::from([(endpoint, series)])).collect())
}
