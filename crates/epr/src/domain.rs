//! Endpoints and what may be said about them.

use chrono::{DateTime, Utc};
use ids::{AppVersionName, ApplicationName, EndpointId};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

const METADATA_KEY_BYTES_MAX: usize = 128;

/// An endpoint: the digital twin of a device.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Endpoint {
    /// Unique in the platform, never changed.
    pub(crate) endpoint_id: String,
    pub(crate) created_date: DateTime<Utc>,
    pub(crate) app_version: EndpointVersion,
    /// Only when asked for by `include=metadata`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub(crate) metadata: Option<Map<String, Value>>,
    /// When the metadata last changed; only together with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) metadata_updated_date: Option<DateTime<Utc>>,
}

/// The application version of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EndpointVersion {
    pub(crate) name: String,
    /// Since when the endpoint has this version.
    pub(crate) registered_date: DateTime<Utc>,
}

/// An endpoint that has its token: what its maker is told, this once. Not `Debug`: it shows the token.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Registered {
    #[serde(flatten)]
    pub(crate) endpoint: Endpoint,
    /// The endpoint's first token. It cannot be read again.
    pub(crate) token: String,
    /// The token's status: `Inactive` until it is first used.
    pub(crate) status: String,
}

/// An endpoint to register.
#[derive(Debug, Clone)]
pub(crate) struct NewEndpoint {
    pub(crate) endpoint_id: EndpointId,
    pub(crate) application: ApplicationName,
    pub(crate) version: AppVersionName,
    pub(crate) metadata: Map<String, Value>,
}

/// Metadata that cannot be stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Invalid {
    #[error("metadata key {0:?} must be 1 to {METADATA_KEY_BYTES_MAX} characters out of A-Z a-z 0-9 _")]
    Key(String),
    #[error("the metadata have {keys} keys, more than the {max} allowed (epr.metadata_keys_max)")]
    Keys { keys: usize, max: usize },
    #[error("the metadata have {bytes} bytes, more than the {max} allowed (epr.metadata_bytes_max)")]
    Bytes { bytes: usize, max: usize },
    #[error("the value of metadata key {0:?} holds a NUL character, which cannot be stored")]
    Nul(String),
}

/// Checks metadata against the rule of keys and the limits.
pub(crate) fn check_metadata(
    metadata: &Map<String, Value>,
    keys_max: usize,
    bytes_max: usize,
) -> Result<(), Invalid> {
    if metadata.len() > keys_max {
        return Err(Invalid::Keys { keys: metadata.len(), max: keys_max });
    }
    for (key, value) in metadata {
        let valid = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if key.is_empty() || key.len() > METADATA_KEY_BYTES_MAX || !valid {
            // Long keys are cut: the message goes back to the caller and into logs.
            return Err(Invalid::Key(key.chars().take(METADATA_KEY_BYTES_MAX).collect()));
        }
        if holds_nul(value) {
            return Err(Invalid::Nul(key.clone()));
        }
    }
    let mut counter = Counter(0);
    // A map of values with string keys always serialises, and the counter takes all.
    if serde_json::to_writer(&mut counter, metadata).is_err() || counter.0 > bytes_max {
        return Err(Invalid::Bytes { bytes: counter.0, max: bytes_max });
    }
    Ok(())
}

/// PostgreSQL's jsonb cannot hold NUL in strings. The depth is bounded by the JSON parser that made the
/// value.
fn holds_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(holds_nul),
        Value::Object(map) => map.iter().any(|(key, value)| key.contains('\0') || holds_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Counts what is written to it.
struct Counter(usize);

impl std::io::Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(metadata: Value) -> Result<(), Invalid> {
        let Value::Object(metadata) = metadata else { panic!("not an object") };
        check_metadata(&metadata, 3, 60)
    }

    #[test]
    fn metadata_keep_to_rules_and_limits() {
        assert_eq!(check(json!({"Serial_1": "x", "nested": {"any key": [1, null]}})), Ok(()));
        assert_eq!(check(json!({"a b": 1})), Err(Invalid::Key("a b".to_owned())));
        assert_eq!(check(json!({"": 1})), Err(Invalid::Key(String::new())));
        assert_eq!(check(json!({"a": ["\0"]})), Err(Invalid::Nul("a".to_owned())));
        assert_eq!(check(json!({"a": {"\0": 1}})), Err(Invalid::Nul("a".to_owned())));
        assert_eq!(check(json!({"a": 1, "b": 1, "c": 1, "d": 1})), Err(Invalid::Keys { keys: 4, max: 3 }));
        assert_eq!(check(json!({"a": "x".repeat(60)})), Err(Invalid::Bytes { bytes: 68, max: 60 }));
    }
}
