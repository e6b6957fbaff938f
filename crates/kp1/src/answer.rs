//! Answers: the topics they go to, and the body of a refusal.

use std::fmt::Write;

use ids::{AppVersionName, EndpointToken, InstanceName, RequestId};
use serde::{Deserialize, Serialize};

use crate::PathError;
use crate::error::{check_size, check_topic_characters};

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was done; also the suffix of pushes.
    Status,
    /// It was refused or failed.
    Error,
}

impl Outcome {
    /// The level that the answer's topic ends with, with its slash.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Status => "/status",
            Self::Error => "/error",
        }
    }
}

/// The topic of the answer to a request: the request's own, as sent, and how it ended.
#[must_use]
pub fn response_topic(request_topic: &str, outcome: Outcome) -> String {
    [request_topic, outcome.suffix()].concat()
}

/// The topic of a push, or of an answer for a client that did not ask itself. There is a token for extensions that know
/// endpoints.
///
/// # Errors
/// When the resource path does not start with a slash, has control characters or wildcards, or makes the topic too long
/// or deep: clients would take the topic for a fault of the connection.
pub fn topic(
    app_version: &AppVersionName,
    extension: &InstanceName,
    token: Option<&EndpointToken>,
    resource_path: &str,
    request_id: Option<RequestId>,
    outcome: Outcome,
) -> Result<String, PathError> {
    if !resource_path.is_empty() && !resource_path.starts_with('/') {
        return Err(PathError::ResourcePath);
    }
    check_topic_characters(resource_path)?;
    let mut topic = ["kp1/", app_version.as_str(), "/", extension.as_str()].concat();
    if let Some(token) = token {
        topic.push('/');
        topic.push_str(token.as_str());
    }
    topic.push_str(resource_path);
    if let Some(request_id) = request_id {
        // Writing to a string does not fail.
        let _ = write!(topic, "/{request_id}");
    }
    topic.push_str(outcome.suffix());
    check_size(&topic)?;
    Ok(topic)
}

/// The body of a refusal, on `/error` and over HTTP (`proto-schemas/json/kp1/error-response.schema.json`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ErrorBody {
    /// An HTTP status code.
    pub status_code: u16,
    /// The cause and what helps, for people.
    pub reason_phrase: String,
}

impl ErrorBody {
    /// The body as JSON text.
    #[must_use]
    pub fn to_json(&self) -> String {
        // A number and a string always have a JSON form.
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RequestPath;
    use proptest::prelude::*;

    fn push(resource_path: &str, request_id: Option<i32>, outcome: Outcome) -> Result<String, PathError> {
        let request_id = request_id.map(|number| RequestId::try_from(number).unwrap());
        topic(
            &AppVersionName::parse("app-v1").unwrap(),
            &InstanceName::parse("cex").unwrap(),
            Some(&EndpointToken::parse("token").unwrap()),
            resource_path,
            request_id,
            outcome,
        )
    }

    #[test]
    fn an_answer_keeps_the_topic_as_sent() {
        assert_eq!(response_topic("kp1/v/dcx/t/json/007", Outcome::Status), "kp1/v/dcx/t/json/007/status");
        assert_eq!(response_topic("kp1/v/dcx/t/json", Outcome::Error), "kp1/v/dcx/t/json/error");
    }

    #[test]
    fn a_push_goes_to_the_path_without_request_id() {
        assert_eq!(
            push("/command/reboot", None, Outcome::Status).unwrap(),
            "kp1/app-v1/cex/token/command/reboot/status"
        );
        assert_eq!(push("/json", Some(0), Outcome::Error).unwrap(), "kp1/app-v1/cex/token/json/0/error");
        let version = AppVersionName::parse("v").unwrap();
        let extension = InstanceName::parse("tsx").unwrap();
        assert_eq!(topic(&version, &extension, None, "", None, Outcome::Status).unwrap(), "kp1/v/tsx/status");
    }

    #[test]
    fn a_push_never_makes_a_topic_that_clients_refuse() {
        assert_eq!(push("json", None, Outcome::Status), Err(PathError::ResourcePath));
        assert_eq!(push("/#", None, Outcome::Status), Err(PathError::Character('#')));
        assert_eq!(push("/a\0", None, Outcome::Status), Err(PathError::Character('\0')));
        assert!(matches!(push(&"/x".repeat(600), None, Outcome::Status), Err(PathError::TooLong(_))));
        assert!(matches!(push(&"/x".repeat(30), None, Outcome::Status), Err(PathError::TooManyLevels(_))));
    }

    #[test]
    fn a_refusal_reads_as_1_kp_says() {
        let body = ErrorBody { status_code: 404, reason_phrase: "no \"such\" thing".to_owned() };
        assert_eq!(body.to_json(), r#"{"statusCode":404,"reasonPhrase":"no \"such\" thing"}"#);
        assert_eq!(serde_json::from_str::<ErrorBody>(&body.to_json()).unwrap(), body);
    }

    #[test]
    fn a_refusal_takes_what_its_schema_takes() {
        let text = include_str!("../../../proto-schemas/json/kp1/error-response.examples.json");
        let examples: serde_json::Value = serde_json::from_str(text).unwrap();
        for (kind, valid) in [("valid", true), ("invalid", false)] {
            for example in examples[kind].as_array().unwrap() {
                assert_eq!(serde_json::from_value::<ErrorBody>(example.clone()).is_ok(), valid, "{example}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_push_topic_without_its_suffix_is_the_request_topic(
            resource in "(/[a-z~]{1,5}){0,4}", number in proptest::option::of(0..=i32::MAX),
        ) {
            let text = push(&resource, number, Outcome::Status).unwrap();
            let target = RequestPath::parse_topic(text.strip_suffix("/status").unwrap()).unwrap().endpoint_aware().unwrap();
            prop_assert_eq!(target.resource_path, &resource);
            prop_assert_eq!(target.request_id.map(RequestId::get), number);
        }
    }
}
