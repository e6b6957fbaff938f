//! What a device sends when it asks for commands (11/CEP command request; the schema is in `proto-schemas/json/cep`).

use extension::Refusal;
use serde::Deserialize;

/// What a device wants.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PollRequest {
    /// Whether commands are pushed to it from now on; none: as before.
    #[serde(default, deserialize_with = "not_null")]
    pub(super) observe: Option<bool>,
}

/// Reads the request; no payload is taken as `{}`.
pub(super) fn request(payload: &[u8]) -> Result<PollRequest, Refusal> {
    if payload.trim_ascii().is_empty() {
        return Ok(PollRequest::default());
    }
    if !payload.trim_ascii_start().starts_with(b"{") {
        // An array would be taken as a list of the fields.
        return Err(refusal("it is no JSON object"));
    }
    serde_json::from_slice(payload).map_err(refusal)
}

fn refusal(error: impl std::fmt::Display) -> Refusal {
    Refusal::bad_request(format!(r#"the payload must be empty, {{}} or {{"observe": true|false}}: {error}"#))
}

fn not_null<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<bool>, D::Error> {
    bool::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_schema_takes_is_taken_and_nothing_else() {
        for (is_valid, example) in super::super::results::tests::examples("command-request") {
            assert_eq!(request(example.as_bytes()).is_ok(), is_valid, "{example}");
        }
    }

    #[test]
    fn no_payload_asks_without_a_word_on_observing() {
        for payload in ["", " \r\n", "{}"] {
            assert_eq!(request(payload.as_bytes()).unwrap(), PollRequest { observe: None }, "{payload:?}");
        }
        assert_eq!(request(br#" {"observe": false}"#).unwrap().observe, Some(false));
    }

    #[test]
    fn a_refusal_says_what_may_be_sent() {
        let error = request(br#"{"observes": true}"#).unwrap_err();
        assert_eq!(error.status_code, 400);
        assert!(error.reason_phrase.contains("unknown field `observes`"), "{error}");
        assert!(request(b"\xff").unwrap_err().reason_phrase.contains(r#"{"observe": true|false}"#));
    }
}
