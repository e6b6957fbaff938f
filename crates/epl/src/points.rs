//! Connectivity as a time series (14/TSTP): every transition becomes a point, at its own time, until a receiver has
//! confirmed it. To send one twice does no harm: it has the same time and value.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt as _;
use ids::{AppVersionName, EndpointId, TimeSeriesName};
use ism::tstp::{TIME_SERIES_PROCESSED, Value, data_points_received};
use ism::{DataPoint, Record as _, TimeSeriesEvent, TimeSeriesProcessed};
use runtime::now_ms;
use tokio::time::Instant;

use crate::metrics::Told;
use crate::store::DuePoint;
use crate::teller::{Round, TRY_FOR, Teller};

/// Points that are taken at once, for each that may be in flight.
const TAKEN_PER_FLIGHT: u32 = 8;
/// The name of the value of each point.
const VALUE: &str = "value";

/// The points of one endpoint.
struct Batch<'a> {
    endpoint: &'a EndpointId,
    app_version: &'a AppVersionName,
    series: TimeSeriesName,
    points: Vec<&'a DuePoint>,
}

/// Sends what is due.
pub(crate) async fn round(teller: Teller) -> sqlx::Result<Round> {
    let limit = teller.config.points_in_flight_max.saturating_mul(TAKEN_PER_FLIGHT);
    let due = teller.store.take_points(limit).await?;
    if due.is_empty() {
        return Ok(Round::Rest);
    }
    let settings = teller.settings(due.iter().map(|due| &due.app_version)).await;
    let (mut done, mut postponed) = (vec![], vec![]);
    let mut batches: BTreeMap<(&EndpointId, &AppVersionName), Batch<'_>> = BTreeMap::new();
    for point in &due {
        let series = match settings.get(&point.app_version) {
            Some(Ok(connectivity)) => connectivity.time_series.name.clone(),
            Some(Err(_)) | None => {
                postponed.push(point.point_id);
                continue;
            }
        };
        let Some(series) = series else {
            done.push(point.point_id);
            continue;
        };
        let (endpoint, app_version) = (&point.endpoint, &point.app_version);
        let batch = || Batch { endpoint, app_version, series, points: Vec::new() };
        batches.entry((endpoint, app_version)).or_insert_with(batch).points.push(point);
    }
    teller.metrics.points(Told::Unwanted, done.len());
    let deadline = Instant::now() + TRY_FOR;
    let in_flight = usize::try_from(teller.config.points_in_flight_max).unwrap_or(1);
    let sender = Arc::new(teller.clone());
    // Collected first: the compiler cannot tell otherwise that the whole may move between threads.
    let sending: Vec<_> = batches
        .into_values()
        .map(|batch| {
            let ids: Vec<i64> = batch.points.iter().map(|point| point.point_id).collect();
            let (subject, event) = event(&sender, &batch);
            let sender = sender.clone();
            async move { (ids, send(&sender, subject, event, deadline).await) }
        })
        .collect();
    let mut told = futures::stream::iter(sending).buffer_unordered(in_flight);
    while let Some((ids, told)) = told.next().await {
        teller.metrics.points(told, ids.len());
        if told == Told::Postponed { &mut postponed } else { &mut done }.extend(ids);
    }
    let is_away = !postponed.is_empty();
    teller.store.settle_points(&done).await?;
    teller.store.postpone_points(&postponed).await?;
    let is_full = due.len() >= usize::try_from(limit).unwrap_or(usize::MAX);
    Ok(if is_full && !is_away { Round::More } else { Round::Rest })
}

fn event(teller: &Teller, batch: &Batch<'_>) -> (String, TimeSeriesEvent) {
    let now = now_ms();
    let point = |point: &&DuePoint| DataPoint {
        ingestion_timestamp: now,
        timestamp: point.changed_ms,
        values: BTreeMap::from([(
            VALUE.to_owned(),
            Value::Double(if point.is_connected { 1.0 } else { 0.0 }),
        )]),
    };
    let timeout = teller.config.request_timeout().as_millis();
    let event = TimeSeriesEvent {
        correlation_id: teller.correlation_id(),
        timestamp: now,
        timeout: i64::try_from(timeout).unwrap_or(i64::MAX),
        app_version_name: batch.app_version.to_string(),
        endpoint_id: batch.endpoint.to_string(),
        time_series_name: batch.series.to_string(),
        data_points: batch.points.iter().map(point).collect(),
    };
    (data_points_received(teller.context.instance(), &batch.series), event)
}

/// Broadcasts points and waits for the first receiver that answers.
async fn send(teller: &Teller, subject: String, mut event: TimeSeriesEvent, deadline: Instant) -> Told {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Told::Postponed;
    }
    let timeout = teller.config.request_timeout().min(left);
    // It may have waited for its turn.
    event.timestamp = now_ms();
    let requester = teller.context.requester();
    let answer = requester.request(subject, TIME_SERIES_PROCESSED, event.encode(), None, timeout).await;
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => {
            tracing::debug!(%error, "no receiver of time series answered; points are sent later");
            return Told::Postponed;
        }
    };
    let response = match TimeSeriesProcessed::decode(&answer.payload) {
        Ok(response) => response,
        Err(error) => {
            tracing::warn!(%error, "the answer of a receiver of time series cannot be read");
            return Told::Postponed;
        }
    };
    match response.status_code {
        200..=299 => Told::Done,
        code @ 400..=499 => {
            let reason = response.reason_phrase.unwrap_or_default();
            tracing::warn!(
                code,
                reason,
                series = event.time_series_name,
                "points of connectivity were refused"
            );
            Told::Refused
        }
        code => {
            let reason = response.reason_phrase.unwrap_or_default();
            tracing::debug!(code, reason, "points of connectivity cannot be stored now; they are sent later");
            Told::Postponed
        }
    }
}
