//! Results as devices report them (11/CEP result request; the schema is in `proto-schemas/json/cep`), and what they are
//! told of them.

use std::collections::HashSet;
use std::fmt::{self, Write as _};

use bytes::Bytes;
use extension::Refusal;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::domain::{Lane, NewResult, Payload, REASON_BYTES_MAX, ResultTaken, State};

/// Results in one message.
const RESULTS_MAX: usize = 1_000;
/// Commands that an answer names of each kind.
const NAMED_MAX: usize = 100;

const EXPECTED: &str = r#"an array of {"id", "statusCode", "reasonPhrase", "payload"}, the last two if wanted, or one such object"#;

/// A result as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reported {
    id: i32,
    #[serde(rename = "statusCode")]
    status_code: i32,
    #[serde(default, rename = "reasonPhrase")]
    reason_phrase: Option<String>,
    /// Null is a payload, too.
    #[serde(default, deserialize_with = "as_written")]
    payload: Option<Box<RawValue>>,
}

fn as_written<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(deserializer).map(Some)
}

/// Reads what a device reports. Of two results of one command the first counts.
pub(super) fn request(payload: &[u8], payload_bytes_max: usize) -> Result<Vec<NewResult>, Refusal> {
    let elements = elements(payload)?;
    if elements.len() > RESULTS_MAX {
        let count = elements.len();
        return Err(Refusal::new(413, format!("{count} results in one message; send {RESULTS_MAX} at most")));
    }
    let mut seen = HashSet::with_capacity(elements.len());
    let mut results = Vec::with_capacity(elements.len());
    for (index, element) in elements.into_iter().enumerate() {
        let result = result(element, payload_bytes_max).map_err(|fault| {
            let Refusal { status_code, reason_phrase } = fault;
            Refusal::new(
                status_code,
                format!("result {index}: {reason_phrase}; none of the message is taken"),
            )
        })?;
        if seen.insert(result.command_id) {
            results.push(result);
        }
    }
    Ok(results)
}

/// The results one by one, not looked at yet.
fn elements(payload: &[u8]) -> Result<Vec<&RawValue>, Refusal> {
    let wrong = |error: &dyn fmt::Display| {
        Refusal::bad_request(format!("the payload must be {EXPECTED}: {error}; none of it is taken"))
    };
    match payload.trim_ascii_start().first() {
        Some(b'[') => serde_json::from_slice(payload).map_err(|error| wrong(&error)),
        Some(b'{') => {
            serde_json::from_slice(payload).map(|element| vec![element]).map_err(|error| wrong(&error))
        }
        Some(_) => Err(wrong(&"it is neither an array nor an object")),
        None => Err(wrong(&"it is empty")),
    }
}

fn result(element: &RawValue, payload_bytes_max: usize) -> Result<NewResult, Refusal> {
    if !element.get().starts_with('{') {
        return Err(Refusal::bad_request("it is no JSON object"));
    }
    let Reported { id, status_code, reason_phrase, payload } =
        serde_json::from_str(element.get()).map_err(|error| Refusal::bad_request(error.to_string()))?;
    if id < 1 {
        return Err(Refusal::bad_request(format!("no command has the id {id}; ids begin with 1")));
    }
    if let Some(reason) = &reason_phrase {
        let bytes = reason.len();
        if bytes > REASON_BYTES_MAX {
            let fault = format!("its reasonPhrase is {bytes} bytes and may be {REASON_BYTES_MAX}");
            return Err(Refusal::new(413, fault));
        }
        if reason.contains('\0') {
            return Err(Refusal::bad_request("its reasonPhrase holds the character U+0000"));
        }
    }
    if let Some(payload) = &payload {
        // Who reads it later reads all of it: nesting, numbers and escapes have limits there.
        serde_json::from_str::<Value>(payload.get())
            .map_err(|error| Refusal::bad_request(format!("its payload cannot be read: {error}")))?;
    }
    let payload = payload.map(|payload| Bytes::from(String::from(Box::<str>::from(payload))));
    if let Some(bytes) = payload.as_ref().map(Bytes::len).filter(|bytes| *bytes > payload_bytes_max) {
        let fault =
            format!("its payload is {bytes} bytes and may be {payload_bytes_max} (cex.payload_bytes_max)");
        return Err(Refusal::new(413, fault));
    }
    Ok(NewResult { command_id: id, status_code, reason_phrase, payload: payload.map(Payload::Json) })
}

/// What a device is told once the ledger has what it could take.
pub(super) fn answer(
    lane: &Lane,
    results: impl IntoIterator<Item = (i32, ResultTaken)>,
) -> Result<(), Refusal> {
    let mut unknown = Vec::new();
    let mut late: Vec<(State, Vec<i32>)> = Vec::new();
    let mut taken = 0_usize;
    for (id, outcome) in results {
        match outcome {
            ResultTaken::Taken | ResultTaken::Repeated => taken += 1,
            ResultTaken::Unknown => unknown.push(id),
            ResultTaken::Late(state) => match late.iter_mut().find(|(known, _)| *known == state) {
                Some((_, ids)) => ids.push(id),
                None => late.push((state, vec![id])),
            },
        }
    }
    if unknown.is_empty() && late.is_empty() {
        return Ok(());
    }
    let mut reason = String::new();
    if !unknown.is_empty() {
        let ids = Ids(&unknown);
        // Writing to a string does not fail.
        let _ = write!(reason, "{ids} of type {} of this endpoint: unknown; ", lane.command_type);
    }
    for (state, ids) in &late {
        let _ = write!(reason, "{}: had ended before ({}), noted as late; ", Ids(ids), state.as_str());
    }
    reason.push_str(match taken {
        0 => "no other result was in the message",
        _ => "all others were taken",
    });
    Err(Refusal::new(if unknown.is_empty() { 409 } else { 404 }, reason))
}

/// Commands by their ids, as an answer names them.
struct Ids<'a>(&'a [i32]);

impl fmt::Display for Ids<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if self.0.len() == 1 { "command " } else { "commands " })?;
        for (index, id) in self.0.iter().take(NAMED_MAX).enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(formatter, "{comma}{id}")?;
        }
        match self.0.len().saturating_sub(NAMED_MAX) {
            0 => Ok(()),
            more => write!(formatter, " and {more} more"),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use ids::{CommandType, EndpointId, TenantId};
    use proptest::prelude::*;

    use super::*;

    /// The examples of a schema of 11/CEP: whether it is valid, and the text.
    pub(in crate::device) fn examples(name: &str) -> Vec<(bool, String)> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto-schemas/json/cep");
        let text = std::fs::read_to_string(format!("{folder}/{name}.examples.json")).unwrap();
        let examples: Value = serde_json::from_str(&text).unwrap();
        let of = |kind: &str| examples[kind].as_array().unwrap().clone();
        let valid = of("valid").into_iter().map(|example| (true, example.to_string()));
        valid.chain(of("invalid").into_iter().map(|example| (false, example.to_string()))).collect()
    }

    fn read(text: &str) -> Result<Vec<NewResult>, Refusal> {
        request(text.as_bytes(), 100)
    }

    fn answered(outcomes: &[(i32, ResultTaken)]) -> Result<(), Refusal> {
        let lane = Lane {
            tenant: TenantId::parse("acme").unwrap(),
            endpoint_id: EndpointId::parse("e").unwrap(),
            command_type: CommandType::parse("reboot").unwrap(),
        };
        answer(&lane, outcomes.iter().copied())
    }

    #[test]
    fn what_the_schema_takes_is_taken_and_nothing_else() {
        for (is_valid, example) in examples("result-request") {
            assert_eq!(read(&example).is_ok(), is_valid, "{example}");
        }
    }

    #[test]
    fn results_are_read_as_they_were_written() {
        let results = read(
            r#"[{"id": 7, "statusCode": 200, "reasonPhrase": "OK", "payload": "Success"},
                {"id": 2147483647, "statusCode": -1, "payload": {"n": 1.10}}, {"id": 8, "statusCode": 404, "payload": null}]"#,
        )
        .unwrap();
        let json = |text: &'static str| Some(Payload::Json(text.into()));
        assert_eq!(
            results[0],
            NewResult {
                command_id: 7,
                status_code: 200,
                reason_phrase: Some("OK".to_owned()),
                payload: json(r#""Success""#)
            }
        );
        assert_eq!((results[1].command_id, results[1].payload.clone()), (i32::MAX, json(r#"{"n": 1.10}"#)));
        assert_eq!((results[2].reason_phrase.clone(), results[2].payload.clone()), (None, json("null")));
        assert_eq!(read(r#"{"id": 7, "statusCode": 200}"#).unwrap()[0].payload, None);
    }

    #[test]
    fn of_two_results_of_one_command_the_first_counts() {
        let results = read(r#"[{"id": 1, "statusCode": 200}, {"id": 1, "statusCode": 500}]"#).unwrap();
        assert_eq!(results.iter().map(|result| result.status_code).collect::<Vec<_>>(), [200]);
    }

    #[test]
    fn a_refusal_names_the_element_and_the_rule() {
        let refused = |text: &str| read(text).unwrap_err();
        for (text, status, parts) in [
            (
                r#"[{"id": 1, "statusCode": 200}, {"id": 0, "statusCode": 200}]"#,
                400,
                ["result 1:", "begin with 1"],
            ),
            (r#"[{"id": 1}]"#, 400, ["result 0:", "missing field `statusCode`"]),
            (r#"[{"id": 1, "statusCode": 200, "code": 1}]"#, 400, ["result 0:", "unknown field `code`"]),
            (r#"[[1, 200]]"#, 400, ["result 0:", "no JSON object"]),
            (r#"{"id": 1, "statusCode": 200, "reasonPhrase": "\u0000"}"#, 400, ["result 0:", "U+0000"]),
            ("SUCCESS: it ran", 400, ["must be an array of", "neither an array nor an object"]),
            ("", 400, ["must be an array of", "it is empty"]),
            (r#"[{"id": 1, "statusCode": 200}"#, 400, ["must be an array of", "EOF while parsing"]),
        ] {
            let refusal = refused(text);
            assert_eq!(refusal.status_code, status, "{text}");
            for part in parts {
                assert!(refusal.reason_phrase.contains(part), "{text}: {refusal}");
            }
        }
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        for payload in [deep.as_str(), "1e999", r#""\ud800""#] {
            let refusal =
                request(format!(r#"{{"id": 1, "statusCode": 200, "payload": {payload}}}"#).as_bytes(), 1_000);
            let refusal = refusal.unwrap_err();
            assert_eq!(refusal.status_code, 400);
            assert!(refusal.reason_phrase.contains("result 0: its payload cannot be read"), "{refusal}");
        }
        let large = format!(r#"[{{"id": 1, "statusCode": 200, "payload": "{}"}}]"#, "x".repeat(99));
        let refusal = refused(&large);
        assert_eq!(refusal.status_code, 413);
        assert!(
            refusal.reason_phrase.contains("101 bytes and may be 100 (cex.payload_bytes_max)"),
            "{refusal}"
        );
        let many = format!("[{}]", vec![r#"{"id":1,"statusCode":200}"#; RESULTS_MAX + 1].join(","));
        assert_eq!(refused(&many).status_code, 413);
        let reason = "x".repeat(REASON_BYTES_MAX + 1);
        let reason = refused(&format!(r#"{{"id": 1, "statusCode": 200, "reasonPhrase": "{reason}"}}"#));
        assert_eq!(reason.status_code, 413);
    }

    #[test]
    fn all_that_was_taken_is_answered_well() {
        assert_eq!(answered(&[(1, ResultTaken::Taken), (2, ResultTaken::Repeated)]), Ok(()));
    }

    #[test]
    fn an_answer_names_what_was_not_taken() {
        let late = ResultTaken::Late(State::Expired);
        let refusal = answered(&[
            (7, ResultTaken::Unknown),
            (8, late),
            (9, ResultTaken::Unknown),
            (10, late),
            (1, ResultTaken::Taken),
        ]);
        assert_eq!(
            refusal,
            Err(Refusal::new(
                404,
                "commands 7, 9 of type reboot of this endpoint: unknown; commands 8, 10: had ended before (EXPIRED), \
                 noted as late; all others were taken"
            ))
        );
        let refusal = answered(&[(8, ResultTaken::Late(State::Cancelled))]).unwrap_err();
        assert_eq!(
            (refusal.status_code, refusal.reason_phrase.as_str()),
            (
                409,
                "command 8: had ended before (CANCELLED), noted as late; no other result was in the message"
            )
        );
        let many: Vec<_> = (1..=1_000).map(|id| (id, ResultTaken::Unknown)).collect();
        let refusal = answered(&many).unwrap_err();
        assert!(refusal.reason_phrase.contains("100 and 900 more of type"), "{refusal}");
    }

    proptest! {
        #[test]
        fn never_panics(payload in proptest::collection::vec(any::<u8>(), 0..64), text in r#"[\[\]{}":,idstauCode0-9 ]{0,60}"#) {
            drop((request(&payload, 100), read(&text)));
        }

        #[test]
        fn every_result_is_read_back(
            ids in proptest::collection::btree_set(1..=i32::MAX, 0..20),
            status_code: i32,
            reason in "[^\u{0}]{0,20}",
            payload in "[^\u{0}]{0,20}",
        ) {
            let elements: Vec<Value> = ids.iter().map(|id| {
                serde_json::json!({"id": id, "statusCode": status_code, "reasonPhrase": reason, "payload": payload})
            }).collect();
            let results = request(Value::Array(elements).to_string().as_bytes(), 1_000).unwrap();
            prop_assert_eq!(results.len(), ids.len());
            for (result, id) in results.into_iter().zip(ids) {
                prop_assert_eq!(result.command_id, id);
                prop_assert_eq!(result.status_code, status_code);
                prop_assert_eq!(result.reason_phrase.as_ref(), Some(&reason));
                prop_assert_eq!(result.payload.unwrap().to_value(), Value::String(payload.clone()));
            }
        }
    }
}
