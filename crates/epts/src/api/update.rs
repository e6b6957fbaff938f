//! Storing points over REST, on the same way as a device's.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use futures::{StreamExt as _, TryStreamExt as _};
use ids::{AppVersionName, EndpointId, TimeSeriesName};
use rest::{Caller, Error, ErrorBody, Json, Path};
use runtime::{LookupError, Version};
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::sync::oneshot;
use tracing::Span;
use utoipa::ToSchema;

use super::Api;
use crate::endpoints::EndpointError;
use crate::extraction::{Extracted, Limits, Refusal};
use crate::intake::Incoming;
use crate::point::{Point, Sample, Scalar, Stamp, Values};
use crate::settings::{EptsSettings, check_value_name};
use crate::timestamp::Format;
use crate::work::{AnswerTo, Outcome};

/// How long a call waits for its commit.
const DEADLINE_MS: i64 = 10_000;
/// Endpoints that one call asks the register about at the same time.
const CHECKS_MAX: usize = 16;

/// A point to store.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PointUpdate {
    /// ISO-8601, or milliseconds since 1970 as a number; absent: the server's time.
    #[schema(value_type = Option<String>)]
    timestamp: Option<Value>,
    /// Value name to number, string, boolean or null; at least one.
    #[schema(value_type = Object)]
    values: Map<String, Value>,
}

/// Endpoint id to series name to points.
type Update = BTreeMap<EndpointId, BTreeMap<TimeSeriesName, Vec<PointUpdate>>>;

/// Stores points and tells other services about them (14/TSTP). A point at the moment of an earlier one replaces it.
///
/// Each endpoint's points are stored together or not at all. After any error but 504 nothing was stored. After 504 it is not
/// known, or the points of some endpoints were stored and those of others were not; to repeat the call is then safe for points
/// that carry a timestamp.
#[utoipa::path(
    put, path = "/epts/api/v1/app-versions/{appVersionName}/time-series/data", tag = "time series",
    params(("appVersionName" = String, Path, description = "The application version of the endpoints")),
    request_body = BTreeMap<String, BTreeMap<String, Vec<PointUpdate>>>,
    responses(
        (status = 204, description = "All points are stored and can be read"),
        (status = 400, description = "The body is wrong; nothing was stored", body = ErrorBody),
        (status = 404, description = "The application version or an endpoint in it does not exist; nothing was stored", body = ErrorBody),
        (status = 413, description = "Too many points for one endpoint", body = ErrorBody),
        (status = 503, description = "The points could not be stored now and none were; repeat the call", body = ErrorBody),
        (status = 504, description = "It is not known whether all points were stored", body = ErrorBody))
)]
pub(super) async fn put(
    State(api): State<Api>,
    caller: Caller,
    Path(app_version_name): Path<String>,
    Json(update): Json<Update>,
) -> Result<StatusCode, Error> {
    let version = version(&api, &caller, &app_version_name).await?;
    caller.check_application(&version.app_name)?;
    let limits = api.intake.limits();
    // All is checked before anything is stored.
    let mut checked = Vec::with_capacity(update.len());
    for (endpoint_id, series) in update {
        let (extracted, bytes) = samples(&api, &limits, series).map_err(|error| {
            Error::new(error.status(), format!("endpoint {endpoint_id}: {}", error.message()))
        })?;
        if extracted.points > 0 {
            checked.push((endpoint_id, extracted, bytes));
        }
    }
    check_endpoints(&api, &caller, &version, checked.iter().map(|(endpoint_id, _, _)| endpoint_id)).await?;
    let mut waiting = Vec::with_capacity(checked.len());
    for (endpoint_id, extracted, bytes) in checked {
        let stored = store(&api, &caller, version.clone(), endpoint_id, extracted, bytes);
        let is_declined = stored.is_err();
        waiting.push(stored);
        if is_declined {
            break;
        }
    }
    let mut outcomes = Vec::with_capacity(waiting.len());
    for outcome in waiting {
        outcomes.push(match outcome {
            Ok(outcome) => outcome.await.unwrap_or_else(|_| Outcome::unknown_end()),
            Err(outcome) => outcome,
        });
    }
    answer(outcomes).map(|()| StatusCode::NO_CONTENT)
}

/// Checks that the caller's tenant has all these endpoints in the version's application.
async fn check_endpoints(
    api: &Api,
    caller: &Caller,
    version: &Version<EptsSettings>,
    endpoints: impl Iterator<Item = &EndpointId>,
) -> Result<(), Error> {
    let correlation_id = caller.correlation_id.to_string();
    // Boxed, because the compiler cannot tell otherwise that it may move between threads.
    let checks: Vec<_> = endpoints
        .map(|endpoint_id| {
            Box::pin(api.endpoints.check(&correlation_id, &caller.tenant, endpoint_id, &version.app_name))
        })
        .collect();
    let mut checks = futures::stream::iter(checks).buffered(CHECKS_MAX);
    while let Some(()) = checks.try_next().await? {}
    Ok(())
}

impl From<EndpointError> for Error {
    fn from(error: EndpointError) -> Self {
        match error {
            EndpointError::Unknown(_) | EndpointError::OtherApplication(..) => {
                Self::not_found(error.to_string())
            }
            EndpointError::Unavailable(_) => Self::unavailable(error.to_string()),
        }
    }
}

async fn version(api: &Api, caller: &Caller, name: &str) -> Result<Arc<Version<EptsSettings>>, Error> {
    let unknown = || Error::not_found(format!("the application version {name} does not exist"));
    let app_version_name = AppVersionName::parse(name).map_err(|_| unknown())?;
    match api.applications.version(&app_version_name).await {
        Ok(version) if version.tenant_id == caller.tenant => Ok(version),
        Ok(_) | Err(LookupError::Unknown) => Err(unknown()),
        Err(error @ LookupError::Unavailable(_)) => Err(Error::unavailable(error.to_string())),
    }
}

/// Queues the points of one endpoint; the receiver tells what becomes of them. Else what has become of them already.
fn store(
    api: &Api,
    caller: &Caller,
    version: Arc<Version<EptsSettings>>,
    endpoint_id: EndpointId,
    extracted: Extracted,
    payload_bytes: usize,
) -> Result<oneshot::Receiver<Outcome>, Outcome> {
    let (sender, receiver) = oneshot::channel();
    let incoming = Incoming {
        version,
        endpoint_id,
        correlation_id: caller.correlation_id.to_string(),
        deadline_ms: Some(runtime::now_ms() + DEADLINE_MS),
        payload_bytes,
        span: Span::current(),
        answer_to: AnswerTo::Caller(sender),
    };
    match api.intake.take(incoming, || Ok(extracted)) {
        Ok(()) => Ok(receiver),
        Err(declined) => Err(declined.outcome),
    }
}

/// The points of one endpoint, each a sample of its own, and how many bytes they take.
fn samples(
    api: &Api,
    limits: &Limits,
    series: BTreeMap<TimeSeriesName, Vec<PointUpdate>>,
) -> Result<(Extracted, usize), Error> {
    let (mut extracted, mut bytes) = (Extracted::default(), 0);
    for (name, points) in series {
        if name.as_str().starts_with('~') {
            return Err(Error::bad_request(format!("the series name {name} is reserved: it begins with ~")));
        }
        extracted.points += points.len();
        if extracted.points > limits.points_max {
            let refusal = Refusal::TooManyPoints { limit: limits.points_max };
            return Err(Error::too_large(refusal.to_string()));
        }
        for (index, point) in points.into_iter().enumerate() {
            let fault =
                |reason: String| Error::bad_request(format!("series {name}, point {index}: {reason}"));
            let stamp = stamp(api, limits, point.timestamp.as_ref()).map_err(fault)?;
            let values = values(point.values).map_err(fault)?;
            bytes += name.as_str().len() + values.bytes();
            extracted.samples.push(Sample { stamp, points: vec![Point { series: name.clone(), values }] });
        }
    }
    Ok((extracted, bytes))
}

fn stamp(api: &Api, limits: &Limits, timestamp: Option<&Value>) -> Result<Stamp, String> {
    let Some(timestamp) = timestamp.filter(|timestamp| !timestamp.is_null()) else {
        return Ok(Stamp::Server(api.intake.clock.next()));
    };
    let format = if timestamp.is_number() { Format::Millis } else { Format::Iso8601 };
    let moment = format.read(timestamp).ok_or("timestamp is neither ISO-8601 nor milliseconds since 1970")?;
    limits.bounds.check(moment).map(Stamp::Device).map_err(|error| format!("timestamp {error}"))
}

fn values(given: Map<String, Value>) -> Result<Values, String> {
    let mut named = Vec::with_capacity(given.len());
    for (name, value) in given {
        check_value_name(&name)?;
        let scalar = Scalar::from_json(&value)
            .filter(|scalar| !scalar.has_nul())
            .ok_or_else(|| format!("{name} must be a number, string without U+0000, boolean or null"))?;
        named.push((name, scalar));
    }
    Values::new(named).ok_or_else(|| "values is empty".to_owned())
}

/// The answer to a call from what became of its endpoints: the first failure. When points of another endpoint may be stored
/// all the same, it is 504, because every other failure says that nothing is.
fn answer(outcomes: Vec<Outcome>) -> Result<(), Error> {
    let may_be_stored = outcomes.iter().any(Outcome::may_be_stored);
    let failure = outcomes.into_iter().find_map(|outcome| match outcome {
        Outcome::Stored => None,
        Outcome::Refused { status_code, message, .. } | Outcome::Failed { status_code, message } => {
            Some((status_code, message))
        }
        Outcome::Expired => Some((503, "the points were not stored in time; repeat the call".to_owned())),
    });
    let Some((status_code, message)) = failure else { return Ok(()) };
    Err(match status_code {
        504 => Error::timed_out(message),
        _ if may_be_stored => Error::timed_out(format!(
            "the points of some endpoints were not stored ({message}), those of others may be"
        )),
        429 => Error::too_many(message),
        503 => Error::unavailable(message),
        other => {
            let status = u16::try_from(other).ok().and_then(|code| StatusCode::from_u16(code).ok());
            Error::new(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), message)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_504_leaves_open_whether_something_is_stored() {
        let refused = || Outcome::Refused { reason: "x", status_code: 429, message: "full".to_owned() };
        let failed = || Outcome::Failed { status_code: 503, message: "away".to_owned() };
        let status = |outcomes: Vec<Outcome>| answer(outcomes).map_err(|error| error.status().as_u16());
        assert_eq!(status(vec![Outcome::Stored, Outcome::Stored]), Ok(()));
        assert_eq!(status(vec![refused(), failed()]), Err(429));
        assert_eq!(status(vec![failed(), Outcome::Expired]), Err(503));
        assert_eq!(status(vec![Outcome::Expired]), Err(503));
        assert_eq!(status(vec![Outcome::unknown_end()]), Err(504));
        assert_eq!(status(vec![failed(), Outcome::unknown_end()]), Err(504));
        for last in [refused(), failed(), Outcome::Expired] {
            assert_eq!(status(vec![Outcome::Stored, last]), Err(504));
        }
    }
}
