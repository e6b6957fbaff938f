//! 19/EPMMP: keys of many endpoints at once.

use std::collections::BTreeMap;

use futures::StreamExt as _;
use ids::EndpointId;
use ism::epmmp::{
    EndpointMetadataKeyBatchUpdateRequest, EndpointMetadataKeyBatchUpdateResponse,
    EndpointMetadataKeyUpdateCommand,
};
use tokio::time::Instant;

use super::epmmp::value;
use super::{Register, deadline, outcome};
use crate::error::Error;
use crate::metadata::{Edit, Metadata};
use crate::updates::unconditionally;

/// Commands in one batch.
const COMMANDS_MAX: usize = 10_000;
/// Endpoints of one batch that are updated at once.
const CONCURRENT: usize = 4;
/// Endpoints named in a refusal.
const NAMED_MAX: usize = 5;

/// All keys of one endpoint are updated together or not at all; one endpoint does not hold up another. 200 when all are
/// updated, else the status of the first that is not, with how many; what is updated stays so, and the same batch may be
/// sent again.
pub(super) async fn update_keys(
    register: Register,
    request: EndpointMetadataKeyBatchUpdateRequest,
) -> EndpointMetadataKeyBatchUpdateResponse {
    let deadline = deadline(&request);
    let correlation_id = request.correlation_id;
    let (_, status_code, reason_phrase) = match grouped(request.commands) {
        Ok(endpoints) => {
            let total = endpoints.len();
            let failed = futures::stream::iter(endpoints)
                .map(|(endpoint_id, values)| {
                    let (register, correlation_id) = (register.clone(), correlation_id.clone());
                    async move {
                        let done = set(register, correlation_id, deadline, &endpoint_id, values).await;
                        done.err().map(|error| (endpoint_id, error))
                    }
                })
                .buffered(CONCURRENT)
                .filter_map(std::future::ready)
                .collect::<Vec<_>>()
                .await;
            summary(failed, total)
        }
        Err(error) => outcome(Err(error)),
    };
    EndpointMetadataKeyBatchUpdateResponse {
        correlation_id,
        timestamp: runtime::now_ms(),
        timeout: 0,
        status_code,
        reason_phrase,
    }
}

/// The values of each endpoint, the last one of each key.
fn grouped(
    commands: Vec<EndpointMetadataKeyUpdateCommand>,
) -> Result<BTreeMap<String, Result<Metadata, Error>>, Error> {
    if commands.len() > COMMANDS_MAX {
        return Err(Error::Refused(format!("a batch may hold {COMMANDS_MAX} commands")));
    }
    let mut endpoints = BTreeMap::new();
    for command in commands {
        let values = endpoints.entry(command.endpoint_id).or_insert_with(|| Ok(Metadata::new()));
        match (value(&command.metadata_key, &command.metadata_value), values) {
            (Ok(value), Ok(values)) => drop(values.insert(command.metadata_key, value)),
            (Err(error), values @ Ok(_)) => *values = Err(error),
            (_, Err(_)) => {}
        }
    }
    Ok(endpoints)
}

async fn set(
    register: Register,
    correlation_id: String,
    deadline: Option<Instant>,
    endpoint_id: &str,
    values: Result<Metadata, Error>,
) -> Result<(), Error> {
    let (endpoint_id, edit) = (EndpointId::parse(endpoint_id)?, Edit::Set(values?));
    register.change(correlation_id, deadline, endpoint_id, unconditionally(), edit).await.map(drop)
}

fn summary(mut failed: Vec<(String, Error)>, total: usize) -> (Option<()>, i32, Option<String>) {
    if failed.is_empty() {
        return (Some(()), 200, None);
    }
    let count = failed.len();
    let named: Vec<&str> =
        failed.iter().take(NAMED_MAX).map(|(endpoint_id, _)| endpoint_id.as_str()).collect();
    let named = named.join(", ");
    let (_, status_code, reason) = outcome::<()>(Err(failed.swap_remove(0).1));
    let phrase = format!(
        "{count} of {total} endpoints are not updated ({named}); first: {}",
        reason.unwrap_or_default()
    );
    (None, status_code, Some(phrase))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn a_batch_is_grouped_by_endpoint_and_one_bad_value_spoils_its_endpoint_only() {
        let command = |endpoint_id: &str, key: &str, json: &'static str| EndpointMetadataKeyUpdateCommand {
            endpoint_id: endpoint_id.to_owned(),
            metadata_key: key.to_owned(),
            metadata_value: Bytes::from_static(json.as_bytes()),
        };
        let commands = vec![
            command("a", "x", "1"),
            command("b", "x", "{"),
            command("a", "x", "2"),
            command("b", "y", "1"),
        ];
        let grouped = grouped(commands).unwrap();
        assert_eq!(grouped["a"].as_ref().unwrap()["x"], 2);
        assert!(grouped["b"].as_ref().unwrap_err().to_string().contains("metadata key x"));
    }

    #[test]
    fn a_batch_in_which_some_failed_says_which() {
        let endpoint_id = EndpointId::parse("b").unwrap();
        let (_, code, phrase) = summary(vec![("b".to_owned(), Error::UnknownEndpoint(endpoint_id))], 3);
        assert_eq!(
            (code, phrase.as_deref()),
            (404, Some("1 of 3 endpoints are not updated (b); first: endpoint b does not exist"))
        );
    }
}
