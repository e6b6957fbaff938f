//! What a device says of a command on a topic, and what an application says in one: any text.

use std::ops::RangeInclusive;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;

use crate::domain::{NewResult, Payload, REASON_BYTES_MAX};
use crate::error::Error;

/// The status of a result that names none.
const STATUS_OK: i32 = 200;
/// Ids of commands.
const COMMAND_IDS: RangeInclusive<i32> = 1..=i32::MAX;

/// Text, or JSON when it is an object or an array; nothing when it is empty. It is kept byte for byte.
pub(super) fn payload(bytes: Bytes) -> Result<Option<Payload>, Error> {
    if bytes.is_empty() {
        return Ok(None);
    }
    if std::str::from_utf8(&bytes).is_err() {
        return Err(Error::Refused("the payload is not UTF-8: send text or JSON".to_owned()));
    }
    let value = serde_json::from_slice::<Value>(&bytes).ok();
    let is_json = value.is_some_and(|value| value.is_object() || value.is_array());
    Ok(Some(if is_json { Payload::Json(bytes) } else { Payload::Text(bytes) }))
}

/// A result as a device published it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    /// None: the device does not say of which command it is.
    pub(super) command_id: Option<i32>,
    status_code: i32,
    reason_phrase: Option<String>,
    payload: Option<Payload>,
}

/// What an answer that is a JSON object may say of itself.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Said {
    command_id: Option<Value>,
    status_code: Option<Value>,
    reason_phrase: Option<Value>,
}

impl Answer {
    /// Reads an answer. The id of the command is the MQTT 5 correlation data, as the command had it, or a member of the payload.
    pub(super) fn read(bytes: Bytes, correlation_data: Option<&Bytes>) -> Result<Self, Error> {
        let payload = payload(bytes)?;
        let said = match &payload {
            // An array of three would be read as the object's members.
            Some(Payload::Json(json)) if json.trim_ascii_start().starts_with(b"{") => {
                serde_json::from_slice::<Said>(json).ok()
            }
            _ => None,
        };
        let command_id = match (correlation_data, said.as_ref().and_then(|said| said.command_id.as_ref())) {
            (Some(data), _) => Some(correlated(data)?),
            (None, Some(id)) => Some(named(id)?),
            (None, None) => None,
        };
        let integer = |value: &Value| value.as_i64().and_then(|code| i32::try_from(code).ok());
        let status_code = said.as_ref().and_then(|said| said.status_code.as_ref()).and_then(integer);
        let reason_phrase = said.and_then(|said| said.reason_phrase?.as_str().map(str::to_owned));
        // A longer one is the application's own: it is in the payload.
        let reason_phrase = reason_phrase.filter(|phrase| phrase.len() <= REASON_BYTES_MAX);
        Ok(Self {
            command_id,
            status_code: status_code.unwrap_or(STATUS_OK),
            reason_phrase: reason_phrase.filter(|_| status_code.is_some()),
            payload,
        })
    }

    /// The result of this command.
    pub(super) fn result_of(&self, command_id: i32) -> NewResult {
        NewResult {
            command_id,
            status_code: self.status_code,
            reason_phrase: self.reason_phrase.clone(),
            payload: self.payload.clone(),
        }
    }

    pub(super) fn payload(&self) -> Option<&Payload> {
        self.payload.as_ref()
    }
}

fn correlated(data: &Bytes) -> Result<i32, Error> {
    let id = std::str::from_utf8(data).ok().and_then(|text| text.parse().ok());
    id.filter(|id| COMMAND_IDS.contains(id)).ok_or_else(|| {
        Error::Refused(
            "the correlation data is no command id: send that of the command back, or none at all".to_owned(),
        )
    })
}

fn named(id: &Value) -> Result<i32, Error> {
    let number = id.as_i64().and_then(|id| i32::try_from(id).ok());
    number
        .filter(|id| COMMAND_IDS.contains(id))
        .ok_or_else(|| Error::Refused(format!("commandId must be an integer from 1 to {}", i32::MAX)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Answer {
        Answer::read(Bytes::copy_from_slice(text.as_bytes()), None).unwrap()
    }

    #[test]
    fn an_answer_is_any_text() {
        for text in ["SUCCESS: done", "7", "\"ok\"", "null", "{not json"] {
            let answer = read(text);
            assert_eq!((answer.command_id, answer.status_code), (None, 200));
            assert_eq!(answer.payload, Some(Payload::Text(text.to_owned().into())));
        }
        assert_eq!(read("").payload, None);
        let json = read(" {\"light\": \"on\"} ");
        assert_eq!(json.payload, Some(Payload::Json(" {\"light\": \"on\"} ".into())));
        assert!(matches!(read("[1,2,3]").payload, Some(Payload::Json(_))));
        assert_eq!(read("[1,2,3]").command_id, None);
        assert!(matches!(Answer::read(Bytes::from_static(&[0xff]), None), Err(Error::Refused(_))));
    }

    #[test]
    fn an_answer_may_say_which_command_it_is_of_and_how_it_went() {
        let answer = read(r#"{"commandId": 7, "statusCode": 500, "reasonPhrase": "jammed", "tid": "x"}"#);
        assert_eq!((answer.command_id, answer.status_code), (Some(7), 500));
        assert_eq!(answer.reason_phrase.as_deref(), Some("jammed"));
        assert_eq!(answer.result_of(7).payload, answer.payload);
        // A word for a status that is none is the application's own.
        assert_eq!(read(r#"{"statusCode": "bad", "reasonPhrase": 7}"#).status_code, 200);
        for wrong in ["0", "-1", "2147483648", "\"7\"", "7.5", "null"] {
            let text = format!("{{\"commandId\": {wrong}}}");
            let read = Answer::read(text.into(), None);
            // `null` says nothing.
            assert_eq!(read.is_err(), wrong != "null", "{wrong}");
        }
        let correlated = |data: &'static [u8]| {
            let data = Bytes::from_static(data);
            Answer::read("done".into(), Some(&data)).map(|answer| answer.command_id).ok()
        };
        assert_eq!(correlated(b"7"), Some(Some(7)));
        for wrong in [&b"0"[..], b"x", b"", &[0xff]] {
            assert_eq!(correlated(wrong), None);
        }
    }

    proptest! {
        #[test]
        fn what_was_said_is_kept_byte_for_byte(text in ".+") {
            let kept = payload(text.clone().into()).unwrap().unwrap();
            prop_assert_eq!(kept.bytes(), &Bytes::from(text));
        }
    }
}
