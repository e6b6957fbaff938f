//! Samples that were stored as they came, because no point could be taken from them.

use axum::extract::State;
use ids::TimeSeriesName;
use rest::{Caller, Error, ErrorBody, Json, Path};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::Api;
use super::parameters::Parameters;
use crate::point::UNEXTRACTED_SERIES;
use crate::reads::{PointValues, Selection};

/// A sample as the device sent it.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct UnextractedSample {
    /// The endpoint that sent it.
    endpoint_id: String,
    /// Its moment, ISO-8601 in UTC.
    timestamp: String,
    /// The sample, any JSON.
    #[schema(value_type = Object)]
    sample: Box<RawValue>,
}

/// How such a sample is stored: its JSON as a text.
#[derive(Deserialize)]
struct Stored {
    value: String,
}

/// Lists samples from which no point could be taken: they are kept as long as points are.
#[utoipa::path(
    get, path = "/epts/api/v1/applications/{applicationName}/unextracted-samples", tag = "time series",
    params(
        ("applicationName" = String, Path, description = "The application"),
        ("endpointId" = Option<Vec<String>>, Query, description = "Absent: all endpoints of the application"),
        ("fromDate" = String, Query, description = "ISO-8601 or relative like now-7d"),
        ("toDate" = String, Query, description = "ISO-8601 or relative like now"),
        ("includeTime" = Option<String>, Query, description = "Which ends belong to the range: from (default), to, both, none"),
        ("sort" = Option<String>, Query, description = "By timestamp: ASC (default), DESC"),
        ("limit" = Option<u32>, Query, description = "At most so many samples of each endpoint")),
    responses(
        (status = 200, body = Vec<UnextractedSample>),
        (status = 400, description = "A parameter is wrong, or there are too many samples or bytes", body = ErrorBody),
        (status = 404, description = "The application does not exist", body = ErrorBody),
        (status = 503, description = "Too many large queries are being answered", body = ErrorBody))
)]
pub(super) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Path(application_name): Path<String>,
    parameters: Parameters,
) -> Result<Json<Vec<UnextractedSample>>, Error> {
    let endpoints = parameters.endpoints()?;
    let (span, sort, limit) = (parameters.span()?, parameters.sort()?, parameters.limit()?);
    let (application_name, _) = api.application(&caller, &application_name).await?;
    let series = vec![TimeSeriesName::parse(UNEXTRACTED_SERIES).map_err(Error::internal)?];
    let selection = Selection { tenant_id: caller.tenant, application_name, series, endpoints };
    let answer = api.reads.range(&selection, span, sort, limit).await?;
    let mut samples = Vec::new();
    for (endpoint_id, series) in answer.points {
        for point in series.into_values().flatten() {
            let PointValues::Named(stored) = point.values else {
                return Err(Error::internal(anyhow::anyhow!("an unextracted sample is stored as a number")));
            };
            let Stored { value } = serde_json::from_str(stored.get()).map_err(Error::internal)?;
            let sample = RawValue::from_string(value).map_err(Error::internal)?;
            samples.push(UnextractedSample {
                endpoint_id: endpoint_id.clone(),
                timestamp: point.timestamp,
                sample,
            });
        }
    }
    Ok(Json(samples))
}
