//! Commands as REST shows them.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::domain::{Command, CommandName, Payload, Transition};

/// A command: Kaa's descriptor, and the course of its delivery.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CommandDescriptor {
    /// Unique for its endpoint and type; the first is 1.
    command_id: i32,
    command_type: String,
    endpoint_id: String,
    /// `PENDING`, `EXECUTED` (the device reported a result, whatever its status code) or `EXPIRED` (it ended without one).
    status: &'static str,
    /// `CREATED`, `SENT`, `DELIVERED` (all `PENDING`), `EXECUTED`, or `UNDELIVERED`, `EXPIRED`, `CANCELLED` (all
    /// `EXPIRED`).
    delivery_state: &'static str,
    /// The result's, as the device gave it; null before.
    status_code: Option<i32>,
    reason_phrase: Option<String>,
    /// Any JSON; what was sent as text is a string. Null when there is none.
    #[schema(value_type = Option<Value>)]
    request_payload: Option<Box<RawValue>>,
    /// Any JSON; null when there is none.
    #[schema(value_type = Option<Value>)]
    response_payload: Option<Box<RawValue>>,
    /// ISO-8601 in UTC with milliseconds, like all times here.
    #[schema(format = DateTime)]
    created_at: String,
    /// When it reached its state.
    #[schema(format = DateTime)]
    updated_at: String,
    /// When its time to live ends, or ended.
    #[schema(format = DateTime)]
    expires_at: String,
    /// How often it was pushed, or handed out to a device that asked.
    attempts: i32,
    /// The states that it reached, in order of time.
    transitions: Vec<TransitionView>,
    /// A result that came after the end: `statusCode`, `reasonPhrase`, `payload`, `receivedAt`.
    #[serde(skip_serializing_if = "Option::is_none")]
    late_result: Option<Value>,
}

/// A state that a command reached.
#[derive(Debug, Serialize, ToSchema)]
struct TransitionView {
    /// As in `deliveryState`.
    state: &'static str,
    #[schema(format = DateTime)]
    at: String,
    /// Why, where the state does not say it.
    reason: Option<String>,
}

impl From<&Command> for CommandDescriptor {
    fn from(command: &Command) -> Self {
        let lane = &command.name.lane;
        Self {
            command_id: command.name.command_id,
            command_type: lane.command_type.to_string(),
            endpoint_id: lane.endpoint_id.to_string(),
            status: command.state.status().as_str(),
            delivery_state: command.state.as_str(),
            status_code: command.status_code,
            reason_phrase: command.reason_phrase.clone(),
            request_payload: command.payload.as_ref().map(to_json),
            response_payload: command.result.as_ref().map(to_json),
            created_at: iso8601(command.created_at),
            updated_at: iso8601(command.updated_at),
            expires_at: iso8601(command.expires_at),
            attempts: command.attempts,
            transitions: command.transitions.iter().map(TransitionView::from).collect(),
            late_result: command.late_result.clone(),
        }
    }
}

impl From<&Transition> for TransitionView {
    fn from(transition: &Transition) -> Self {
        Self {
            state: transition.state.as_str(),
            at: iso8601(transition.at),
            reason: transition.reason.clone(),
        }
    }
}

/// A payload as JSON, with the numbers and the order in which it was written.
pub(super) fn to_json(payload: &Payload) -> Box<RawValue> {
    let json = match payload {
        Payload::Json(json) => String::from_utf8(json.to_vec()).unwrap_or_default(),
        Payload::Text(_) => payload.to_value().to_string(),
    };
    // The ledger holds valid JSON only.
    RawValue::from_string(json).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// The path of a command. Its parts hold only characters that need no escape.
pub(crate) fn location(name: &CommandName) -> String {
    let lane = &name.lane;
    format!("/cex/api/v1/endpoints/{}/commands/{}/{}", lane.endpoint_id, lane.command_type, name.command_id)
}

/// A moment as in all answers, `2026-04-26T15:41:07.123Z`.
pub(crate) fn iso8601(moment: DateTime<Utc>) -> String {
    moment.to_rfc3339_opts(SecondsFormat::Millis, true)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn payloads_are_shown_as_they_were_written() {
        for json in ["{\"b\":1.10,\"a\":[18446744073709551616]}", "\"done\"", "null", " 7 "] {
            let shown = to_json(&Payload::Json(Bytes::from_static(json.as_bytes())));
            assert_eq!(shown.get(), json.trim(), "{json}");
        }
        let text = to_json(&Payload::Text(Bytes::from_static("say \"hi\"".as_bytes())));
        assert_eq!(text.get(), "\"say \\\"hi\\\"\"");
    }
}
