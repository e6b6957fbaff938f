//! What a command is, and the states of its life.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use ids::{ApplicationName, CommandType, EndpointId, TenantId};
use serde_json::Value;

/// Bytes of a result's reason phrase.
pub(crate) const REASON_BYTES_MAX: usize = 1_024;

/// A state of a command's life. The first three lead to any later one; the others are final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum State {
    /// In the ledger; not known to have left.
    Created,
    /// It has left, or was handed out to a poll; the device may have it.
    Sent,
    /// The device has acknowledged it.
    Delivered,
    /// The device has reported a result, whatever its status.
    Executed,
    /// The one attempt of a command without time to live has failed.
    Undelivered,
    /// Its time to live ended.
    Expired,
    /// Cancelled by its caller, with its batch or with its endpoint.
    Cancelled,
}

/// Kaa's three states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Pending,
    Executed,
    Expired,
}

impl State {
    pub(crate) const ALL: [Self; 7] = [
        Self::Created,
        Self::Sent,
        Self::Delivered,
        Self::Executed,
        Self::Undelivered,
        Self::Expired,
        Self::Cancelled,
    ];

    /// As in SQL, JSON and NATS.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Created => "CREATED",
            Self::Sent => "SENT",
            Self::Delivered => "DELIVERED",
            Self::Executed => "EXECUTED",
            Self::Undelivered => "UNDELIVERED",
            Self::Expired => "EXPIRED",
            Self::Cancelled => "CANCELLED",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    pub(crate) fn is_final(self) -> bool {
        self >= Self::Executed
    }

    pub(crate) fn status(self) -> Status {
        match self {
            Self::Created | Self::Sent | Self::Delivered => Status::Pending,
            Self::Executed => Status::Executed,
            Self::Undelivered | Self::Expired | Self::Cancelled => Status::Expired,
        }
    }
}

impl Status {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Executed => "EXECUTED",
            Self::Expired => "EXPIRED",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::Pending, Self::Executed, Self::Expired].into_iter().find(|status| status.as_str() == text)
    }
}

/// The commands of one type for one endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Lane {
    pub(crate) tenant: TenantId,
    pub(crate) endpoint_id: EndpointId,
    pub(crate) command_type: CommandType,
}

/// What names one command to the world.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct CommandName {
    pub(crate) lane: Lane,
    pub(crate) command_id: i32,
}

impl fmt::Display for CommandName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Lane { endpoint_id, command_type, .. } = &self.lane;
        write!(formatter, "{endpoint_id}/{command_type}/{}", self.command_id)
    }
}

/// The row of a command in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct CommandKey(pub(crate) i64);

/// The row of a batch in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct BatchKey(pub(crate) i64);

/// What comes with a command or a result: JSON as it was written, or text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Payload {
    /// Valid JSON.
    Json(Bytes),
    /// Valid UTF-8; in JSON a string.
    Text(Bytes),
}

impl Payload {
    /// A payload out of the database.
    pub(crate) fn stored(bytes: Vec<u8>, is_text: bool) -> Self {
        if is_text { Self::Text(bytes.into()) } else { Self::Json(bytes.into()) }
    }

    /// The payload as a JSON value: what devices and applications of Kaa see.
    pub(crate) fn to_value(&self) -> Value {
        match self {
            Self::Json(json) => serde_json::from_slice(json).unwrap_or_default(),
            Self::Text(text) => Value::String(String::from_utf8_lossy(text).into_owned()),
        }
    }

    /// The payload as it was given.
    pub(crate) fn bytes(&self) -> &Bytes {
        match self {
            Self::Json(bytes) | Self::Text(bytes) => bytes,
        }
    }

    /// How many bytes it is as JSON.
    pub(crate) fn json_bytes(&self) -> usize {
        match self {
            Self::Json(json) => json.len(),
            Self::Text(_) => self.to_value().to_string().len(),
        }
    }

    pub(crate) fn is_text(&self) -> bool {
        matches!(self, Self::Text(_))
    }
}

/// How long a command is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ttl {
    /// One attempt, now (`commandTtl=0`).
    Once,
    /// Until it ends, as often as is needed.
    For(Duration),
}

/// The caller's key of an invocation: the same key is the same command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Idempotency {
    /// Unique in the tenant; prefixed by what kind of caller it is (`rest:`, `cip:`, `mqtt:`).
    pub(crate) key: String,
    /// SHA-256 of the request.
    pub(crate) digest: [u8; 32],
}

/// A command that is to be invoked.
#[derive(Debug, Clone)]
pub(crate) struct NewCommand {
    pub(crate) lane: Lane,
    pub(crate) application: ApplicationName,
    pub(crate) payload: Option<Payload>,
    pub(crate) ttl: Ttl,
    pub(crate) idempotency: Option<Idempotency>,
    pub(crate) batch: Option<BatchKey>,
    /// Where the application hears of the result, for one that commands over topics.
    pub(crate) response_topic: Option<String>,
}

/// A command as the ledger has it.
#[derive(Debug, Clone)]
pub(crate) struct Command {
    pub(crate) name: CommandName,
    pub(crate) application: ApplicationName,
    pub(crate) state: State,
    pub(crate) payload: Option<Payload>,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) updated_at: DateTime<Utc>,
    pub(crate) expires_at: DateTime<Utc>,
    pub(crate) attempts: i32,
    pub(crate) status_code: Option<i32>,
    pub(crate) reason_phrase: Option<String>,
    pub(crate) result: Option<Payload>,
    pub(crate) late_result: Option<Value>,
    /// In order of time.
    pub(crate) transitions: Vec<Transition>,
}

/// A state that a command reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Transition {
    pub(crate) state: State,
    pub(crate) reason: Option<String>,
    pub(crate) at: DateTime<Utc>,
}

/// A transition as it is told to others, after its commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Happening {
    pub(crate) name: CommandName,
    pub(crate) application: ApplicationName,
    pub(crate) transition: Transition,
}

/// A result that a device reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewResult {
    pub(crate) command_id: i32,
    pub(crate) status_code: i32,
    pub(crate) reason_phrase: Option<String>,
    pub(crate) payload: Option<Payload>,
}

/// What became of a reported result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ResultTaken {
    /// The command is executed with it.
    Taken,
    /// The command had this or another result already; the first one counts.
    Repeated,
    /// The command had ended otherwise; the result is noted as late.
    Late(State),
    /// There is no such command of the endpoint.
    Unknown,
}
