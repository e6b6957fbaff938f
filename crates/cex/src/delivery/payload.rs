//! Commands as devices get them (11/CEP command response; the schema is in `proto-schemas/json/cep`).

use std::io::Write as _;

use bytes::Bytes;
use ids::CommandType;

use crate::domain::Payload;
use crate::ledger::{Due, HandedOut};

/// Bytes of an element beside its payload and its type.
const ELEMENT_BYTES: usize = 40;

/// The commands of one push: all of the type that the path names.
pub(crate) fn of_push(commands: &[Due]) -> Bytes {
    array(commands.iter().map(|command| (command.command_id, None, command.payload.as_ref())))
}

/// The answer to a device that asks; each with its type when it asked for those of all types.
pub(crate) fn of_poll(commands: &[HandedOut], with_types: bool) -> Bytes {
    array(commands.iter().map(|command| {
        (command.command_id, with_types.then_some(&command.command_type), command.payload.as_ref())
    }))
}

fn array<'a>(
    commands: impl Iterator<Item = (i32, Option<&'a CommandType>, Option<&'a Payload>)> + Clone,
) -> Bytes {
    let payload_bytes = |payload: Option<&Payload>| payload.map_or(0, |payload| payload.bytes().len());
    let bytes = commands.clone().map(|(_, _, payload)| ELEMENT_BYTES + payload_bytes(payload)).sum::<usize>();
    let mut json = Vec::with_capacity(bytes + 2);
    json.push(b'[');
    for (number, (id, command_type, payload)) in commands.enumerate() {
        if number > 0 {
            json.push(b',');
        }
        // Writing to a vector does not fail.
        let _ = write!(json, r#"{{"id":{id}"#);
        if let Some(command_type) = command_type {
            // A command type holds nothing that JSON would escape.
            let _ = write!(json, r#","type":"{command_type}""#);
        }
        match payload {
            // As it was written: no number loses a digit on its way.
            Some(Payload::Json(payload)) => {
                json.extend_from_slice(br#","payload":"#);
                json.extend_from_slice(payload);
            }
            Some(Payload::Text(text)) => {
                json.extend_from_slice(br#","payload":"#);
                let _ = serde_json::to_writer(&mut json, &String::from_utf8_lossy(text));
            }
            None => {}
        }
        json.push(b'}');
    }
    json.push(b']');
    json.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::domain::CommandKey;

    fn due(command_id: i32, payload: Option<Payload>) -> Due {
        Due { key: CommandKey(i64::from(command_id)), command_id, payload }
    }

    fn handed_out(command_type: &str, command_id: i32, payload: Option<Payload>) -> HandedOut {
        HandedOut { command_type: CommandType::parse(command_type).unwrap(), command_id, payload }
    }

    #[test]
    fn a_push_is_an_array_whatever_is_in_it() {
        assert_eq!(of_push(&[]), "[]");
        assert_eq!(of_push(&[due(1, None)]), r#"[{"id":1}]"#);
        let commands = [
            due(1, Some(Payload::Json(r#"{"n": 1.10}"#.into()))),
            due(2, Some(Payload::Text("say \"hi\"\n".into()))),
            due(i32::MAX, Some(Payload::Json("null".into()))),
        ];
        assert_eq!(
            of_push(&commands),
            r#"[{"id":1,"payload":{"n": 1.10}},{"id":2,"payload":"say \"hi\"\n"},{"id":2147483647,"payload":null}]"#
        );
    }

    #[test]
    fn types_are_named_where_all_types_are_asked_for() {
        let commands =
            [handed_out("reboot", 3, None), handed_out("zero", 1, Some(Payload::Json("0".into())))];
        assert_eq!(of_poll(&commands, false), r#"[{"id":3},{"id":1,"payload":0}]"#);
        assert_eq!(
            of_poll(&commands, true),
            r#"[{"id":3,"type":"reboot"},{"id":1,"type":"zero","payload":0}]"#
        );
    }

    proptest! {
        #[test]
        fn devices_read_back_what_was_sent(texts in proptest::collection::vec(any::<Option<String>>(), 0..8)) {
            let commands: Vec<Due> = (1..).zip(&texts).map(|(id, text)| {
                due(id, text.as_ref().map(|text| Payload::Text(Bytes::from(text.clone()))))
            }).collect();
            let read: Value = serde_json::from_slice(&of_push(&commands)).unwrap();
            let expected: Vec<Value> = (1..).zip(&texts).map(|(id, text)| match text {
                Some(text) => json!({"id": id, "payload": text}),
                None => json!({"id": id}),
            }).collect();
            prop_assert_eq!(read, Value::Array(expected));
        }
    }
}
