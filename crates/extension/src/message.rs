//! What a handler is given.

use std::time::Duration;

use bytes::Bytes;
use ids::{AppVersionName, CorrelationId, EndpointId, ReplicaId, RequestId};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::Refusal;

/// A device's message.
#[derive(Debug, Clone)]
pub struct Message {
    /// Follows the message through all services; put it into log lines and messages to other services.
    pub correlation_id: CorrelationId,
    /// The application version that the device speaks.
    pub app_version_name: AppVersionName,
    /// Who sent it; absent only for endpoint-unaware extensions.
    pub endpoint_id: Option<EndpointId>,
    /// The path behind the token, such as `/json`.
    pub resource_path: String,
    /// The request id that the device chose, if it did.
    pub request_id: Option<RequestId>,
    /// What it sent.
    pub payload: Bytes,
    /// After this the device no longer waits.
    pub deadline: Instant,
    /// How long the device likes to wait for something to tell, if there is nothing yet (HTTP `Prefer: wait=N`, bounded by the
    /// gateway). The deadline is later by so much: an extension that waits answers when this has passed.
    pub prefer_wait: Option<Duration>,
    /// The gateway replica that the message came through.
    pub gateway: Option<ReplicaId>,
    pub(crate) parameters: Parameters,
}

impl Message {
    /// The time that is left.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

/// What a handler can take as an argument.
pub trait FromMessage: Sized {
    /// Takes it from the message, or refuses the message.
    fn from_message(message: &Message) -> Result<Self, Refusal>;
}

impl FromMessage for Message {
    fn from_message(message: &Message) -> Result<Self, Refusal> {
        Ok(message.clone())
    }
}

/// The sender of a message to an endpoint-aware extension.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// The endpoint.
    pub id: EndpointId,
    /// The application version that it speaks.
    pub app_version_name: AppVersionName,
}

impl FromMessage for Endpoint {
    fn from_message(message: &Message) -> Result<Self, Refusal> {
        let id = message.endpoint_id.clone();
        let id =
            id.ok_or_else(|| Refusal::bad_request("this resource needs an endpoint token in the path"))?;
        Ok(Self { id, app_version_name: message.app_version_name.clone() })
    }
}

/// The payload as it came.
#[derive(Debug, Clone)]
pub struct Payload(pub Bytes);

impl FromMessage for Payload {
    fn from_message(message: &Message) -> Result<Self, Refusal> {
        Ok(Self(message.payload.clone()))
    }
}

/// A JSON payload; also an answer in JSON.
#[derive(Debug, Clone)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned> FromMessage for Json<T> {
    fn from_message(message: &Message) -> Result<Self, Refusal> {
        match serde_json::from_slice(&message.payload) {
            Ok(value) => Ok(Self(value)),
            Err(_) if message.payload.is_empty() => {
                Err(Refusal::bad_request("the payload is empty; send JSON"))
            }
            Err(error) => {
                Err(Refusal::bad_request(format!("the payload is not the JSON expected here: {error}")))
            }
        }
    }
}

/// The variable levels of the resource path, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parameters(pub(crate) Vec<(&'static str, String)>);

impl Parameters {
    /// The level that the route names `{name}`; empty when it names none so.
    #[must_use]
    pub fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value)
    }
}

impl FromMessage for Parameters {
    fn from_message(message: &Message) -> Result<Self, Refusal> {
        Ok(message.parameters.clone())
    }
}
