//! Connectivity as metadata (19/EPMMP): the newest state of each endpoint, never an older one after it.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat};
use futures::StreamExt as _;
use ism::epmmp::{EP_METADATA_KEY_BATCH_UPDATE_REQUEST, EP_METADATA_KEY_BATCH_UPDATE_RESPONSE};
use ism::subject::instance;
use ism::{
    EndpointMetadataKeyBatchUpdateRequest, EndpointMetadataKeyBatchUpdateResponse,
    EndpointMetadataKeyUpdateCommand, Record as _,
};
use runtime::now_ms;
use tokio::time::Instant;

use crate::metrics::Told;
use crate::settings::MetadataKeys;
use crate::store::DueMetadata;
use crate::teller::{Round, TRY_FOR, Teller};

/// Endpoints that are written one by one at the same time, when not all can be written together.
const SINGLE_MAX: usize = 16;

/// Endpoints that may fail one by one before the others are not tried.
const FAILURES_MAX: usize = 4;

/// What the register said.
enum Answer {
    Told(Told),
    /// Nothing, or nothing that can be read.
    None,
}

/// An endpoint and what is to be written to its metadata.
struct Update<'a> {
    due: &'a DueMetadata,
    commands: Vec<EndpointMetadataKeyUpdateCommand>,
}

/// Writes what is due.
pub(crate) async fn round(teller: Teller) -> sqlx::Result<Round> {
    let limit = teller.config.metadata_batch_max;
    let due = teller.store.take_metadata(limit).await?;
    if due.is_empty() {
        return Ok(Round::Rest);
    }
    let settings = teller.settings(due.iter().map(|due| &due.app_version)).await;
    let (mut unwanted, mut postponed, mut updates) = (vec![], vec![], vec![]);
    for due in &due {
        match settings.get(&due.app_version) {
            Some(Ok(connectivity)) => {
                let commands = commands(due, &connectivity.metadata_keys);
                if commands.is_empty() { unwanted.push(due) } else { updates.push(Update { due, commands }) }
            }
            Some(Err(_)) | None => postponed.push(due),
        }
    }
    let mut done = Vec::new();
    for (due, told) in write(&teller, updates).await {
        match told {
            Told::Postponed => postponed.push(due),
            Told::Unwanted => unwanted.push(due),
            Told::Done | Told::Refused => {
                teller.metrics.metadata(told, 1);
                done.push(due);
            }
        }
    }
    teller.metrics.metadata(Told::Unwanted, unwanted.len());
    teller.metrics.metadata(Told::Postponed, postponed.len());
    let is_away = !postponed.is_empty();
    done.append(&mut unwanted);
    teller.store.settle_metadata(&done).await?;
    teller.store.postpone_metadata(&postponed).await?;
    let is_full = due.len() >= usize::try_from(limit).unwrap_or(usize::MAX);
    Ok(if is_full && !is_away { Round::More } else { Round::Rest })
}

fn commands(due: &DueMetadata, keys: &MetadataKeys) -> Vec<EndpointMetadataKeyUpdateCommand> {
    let command = |key: &String, value: String| EndpointMetadataKeyUpdateCommand {
        endpoint_id: due.endpoint.to_string(),
        metadata_key: key.clone(),
        metadata_value: Bytes::from(value),
    };
    let state = keys.state.as_ref().map(|key| command(key, due.is_connected.to_string()));
    let state_ts = keys.state_ts.as_ref().map(|key| command(key, format!("\"{}\"", iso8601(due.changed_ms))));
    state.into_iter().chain(state_ts).collect()
}

/// ISO-8601 in UTC with milliseconds.
pub(crate) fn iso8601(ms: i64) -> String {
    DateTime::from_timestamp_millis(ms).unwrap_or_default().to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Writes all together; if the register does not take that, each for itself, so that one bad endpoint does not hold up the
/// others.
async fn write<'a>(teller: &Teller, updates: Vec<Update<'a>>) -> Vec<(&'a DueMetadata, Told)> {
    if updates.is_empty() {
        return Vec::new();
    }
    let deadline = Instant::now() + TRY_FOR;
    let all = updates.iter().flat_map(|update| update.commands.iter().cloned()).collect();
    let answer = ask(teller, all, deadline).await;
    let is_alone = updates.len() == 1;
    let told = match answer {
        Answer::Told(Told::Done) => Some(Told::Done),
        Answer::None => Some(Told::Postponed),
        Answer::Told(told) => is_alone.then_some(told),
    };
    if let Some(told) = told {
        return updates.into_iter().map(|update| (update.due, told)).collect();
    }
    let failures = AtomicUsize::new(0);
    // Collected first: the compiler cannot tell otherwise that the whole may move between threads.
    let singles: Vec<_> = updates
        .into_iter()
        .map(|Update { due, commands }| {
            let failures = &failures;
            async move {
                // The register can write nothing now: the others are not tried.
                if failures.load(Ordering::Relaxed) >= FAILURES_MAX {
                    return (due, Told::Postponed);
                }
                let told = match ask(teller, commands, deadline).await {
                    Answer::Told(told) => told,
                    Answer::None => Told::Postponed,
                };
                if told == Told::Postponed {
                    failures.fetch_add(1, Ordering::Relaxed);
                }
                (due, told)
            }
        })
        .collect();
    futures::stream::iter(singles).buffer_unordered(SINGLE_MAX).collect().await
}

/// Asks the endpoint register to set keys.
async fn ask(teller: &Teller, commands: Vec<EndpointMetadataKeyUpdateCommand>, deadline: Instant) -> Answer {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Answer::None;
    }
    let timeout = teller.config.request_timeout().min(left);
    let request = EndpointMetadataKeyBatchUpdateRequest {
        correlation_id: teller.correlation_id(),
        timestamp: now_ms(),
        // After this the register drops it, so that it is never carried out after a newer one.
        timeout: i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX).max(1),
        commands,
    };
    let (subject, answer) =
        (EP_METADATA_KEY_BATCH_UPDATE_REQUEST.at(instance::EPR), EP_METADATA_KEY_BATCH_UPDATE_RESPONSE);
    let requester = teller.context.requester();
    let answer = match requester.request(subject, answer, request.encode(), None, timeout).await {
        Ok(answer) => answer,
        Err(error) => {
            tracing::debug!(%error, "the endpoint register did not answer; metadata are written later");
            return Answer::None;
        }
    };
    let response = match EndpointMetadataKeyBatchUpdateResponse::decode(&answer.payload) {
        Ok(response) => response,
        Err(error) => {
            tracing::warn!(%error, "an answer of the endpoint register cannot be read");
            return Answer::None;
        }
    };
    Answer::Told(match response.status_code {
        200..=299 => Told::Done,
        // The endpoint is gone.
        404 => Told::Unwanted,
        code @ 400..=499 => {
            let reason = response.reason_phrase.unwrap_or_default();
            let commands = request.commands.len();
            tracing::warn!(code, reason, commands, "the endpoint register refused the state of endpoints");
            Told::Refused
        }
        code => {
            let reason = response.reason_phrase.unwrap_or_default();
            tracing::debug!(
                code,
                reason,
                "the endpoint register cannot write now; metadata are written later"
            );
            Told::Postponed
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ids::{AppVersionName, EndpointId};

    #[test]
    fn values_are_json() {
        let due = DueMetadata {
            endpoint: EndpointId::parse("e").unwrap(),
            app_version: AppVersionName::parse("v1").unwrap(),
            is_connected: true,
            changed_ms: 1_790_000_000_120,
            transitions: 1,
        };
        let keys = MetadataKeys { state: Some("connected".to_owned()), state_ts: Some("since".to_owned()) };
        let values: Vec<_> = commands(&due, &keys)
            .into_iter()
            .map(|command| (command.metadata_key, command.metadata_value))
            .collect();
        assert_eq!(
            values,
            [
                ("connected".to_owned(), Bytes::from("true")),
                ("since".to_owned(), Bytes::from("\"2026-09-21T14:13:20.120Z\"")),
            ]
        );
        assert!(commands(&due, &MetadataKeys::default()).is_empty());
    }
}
