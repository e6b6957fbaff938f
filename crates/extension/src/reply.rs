//! What a handler answers.

use bytes::Bytes;
use serde::Serialize;

use crate::Json;

/// A positive answer. Give it only when the extension has taken durable responsibility: the device's receipt is made
/// of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// An HTTP status below 400.
    pub status_code: u16,
    /// The status in words.
    pub reason_phrase: Option<String>,
    /// What the device gets.
    pub payload: Option<Bytes>,
}

impl Reply {
    /// 200 without a payload.
    #[must_use]
    pub fn ok() -> Self {
        Self { status_code: 200, reason_phrase: None, payload: None }
    }
}

/// What can be a positive answer.
pub trait IntoReply {
    /// Makes the answer of it.
    fn into_reply(self) -> Result<Reply, Refusal>;
}

impl IntoReply for Reply {
    fn into_reply(self) -> Result<Reply, Refusal> {
        Ok(self)
    }
}

impl IntoReply for () {
    fn into_reply(self) -> Result<Reply, Refusal> {
        Ok(Reply::ok())
    }
}

impl IntoReply for Bytes {
    fn into_reply(self) -> Result<Reply, Refusal> {
        Ok(Reply { payload: Some(self), ..Reply::ok() })
    }
}

impl<T: Serialize> IntoReply for Json<T> {
    fn into_reply(self) -> Result<Reply, Refusal> {
        match serde_json::to_vec(&self.0) {
            Ok(json) => Bytes::from(json).into_reply(),
            Err(error) => Err(Refusal::new(500, format!("the answer cannot be written as JSON: {error}"))),
        }
    }
}

/// A negative answer. Statuses below 500 say that the message itself is bad: sending it again changes nothing. Those from
/// 500 say that the fault is ours and passing: the device gets no receipt and sends it again. Answer 503 only when nothing
/// of the message has been done: then the gateway repeats it by itself within the message's time. When it is not known
/// what has been done, answer 504.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{status_code} {reason_phrase}")]
pub struct Refusal {
    /// An HTTP status from 400 to 599.
    pub status_code: u16,
    /// The cause and the fix, for the device's maker.
    pub reason_phrase: String,
}

impl Refusal {
    /// A refusal with any status; one outside of 400 to 599 becomes 500.
    #[must_use]
    pub fn new(status_code: u16, reason_phrase: impl Into<String>) -> Self {
        let status_code = if (400..600).contains(&status_code) { status_code } else { 500 };
        Self { status_code, reason_phrase: reason_phrase.into() }
    }

    /// 400: the payload is wrong.
    #[must_use]
    pub fn bad_request(reason_phrase: impl Into<String>) -> Self {
        Self::new(400, reason_phrase)
    }

    /// 404: there is no such resource.
    #[must_use]
    pub fn not_found(reason_phrase: impl Into<String>) -> Self {
        Self::new(404, reason_phrase)
    }

    /// 503: what is needed is not there now, and nothing has been done: the gateway may repeat the message.
    #[must_use]
    pub fn unavailable(reason_phrase: impl Into<String>) -> Self {
        Self::new(503, reason_phrase)
    }

    /// 504: the time ran out, and it is not known what has been done.
    #[must_use]
    pub fn timeout(reason_phrase: impl Into<String>) -> Self {
        Self::new(504, reason_phrase)
    }
}

impl From<runtime::RequestError> for Refusal {
    fn from(error: runtime::RequestError) -> Self {
        match error {
            runtime::RequestError::Timeout => Self::timeout(error.to_string()),
            other => Self::unavailable(other.to_string()),
        }
    }
}
