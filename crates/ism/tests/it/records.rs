//! Values of every kind against the oracle.

use std::time::Duration;

use bytes::Bytes;
use ism::{BroadcastConfigurationUpdateEvent, CATALOGUE, ClientData, Envelope, Record};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::oracle;

#[test]
fn whatever_the_oracle_writes_is_read_and_written_the_same() {
    for entry in CATALOGUE {
        let schema = oracle::schema(entry);
        let mut runner = TestRunner::new(ProptestConfig::with_cases(64));
        let outcome = runner.run(&oracle::any_value(&schema), |value| {
            let theirs = oracle::encode(&schema, value.clone());
            let ours = (entry.recode)(&theirs.clone().into())
                .map_err(|error| TestCaseError::fail(error.to_string()))?;
            // The entries of a map may come in another order.
            prop_assert_eq!(ours.len(), theirs.len());
            prop_assert_eq!(oracle::decode(&schema, &ours), value);
            prop_assert_eq!((entry.recode)(&ours), Ok(ours));
            Ok(())
        });
        outcome.unwrap_or_else(|error| panic!("{}: {error}", entry.record));
    }
}

#[test]
fn a_payload_is_a_view_into_its_message() {
    let message = ClientData { payload: Bytes::from_static(&[7; 1000]), ..ClientData::default() }.encode();
    let payload = ClientData::decode(&message).unwrap().payload;
    assert!(message.as_ptr_range().contains(&payload.as_ptr()));
}

#[test]
fn encoding_appends_and_takes_just_the_room_it_needs() {
    let record = ClientData {
        correlation_id: "c".repeat(100),
        payload: vec![0; 10_000].into(),
        ..ClientData::default()
    };
    let mut out = b"before".to_vec();
    record.encode_into(&mut out);
    assert_eq!(out.strip_prefix(b"before").unwrap(), record.encode());
}

#[test]
fn a_message_expires_at_its_deadline() {
    let message = ClientData { timestamp: 1_000, timeout: 500, ..ClientData::default() };
    assert_eq!(message.remaining(1_200), Some(Duration::from_millis(300)));
    assert!(!message.expired(1_499));
    assert!(message.expired(1_500));
    assert_eq!(message.remaining(9_000), Some(Duration::ZERO));

    let forever = ClientData { timestamp: 1_000, ..ClientData::default() };
    assert_eq!((forever.remaining(i64::MAX), forever.expired(i64::MAX)), (None, false));
    let event = BroadcastConfigurationUpdateEvent::default();
    assert_eq!((event.timeout(), event.expired(i64::MAX)), (0, false));
    // Nothing that a peer may send overflows.
    let extreme = ClientData { timestamp: i64::MAX, timeout: i64::MAX, ..ClientData::default() };
    assert!(!extreme.expired(i64::MIN));
    assert!(ClientData { timestamp: i64::MIN, timeout: -1, ..ClientData::default() }.expired(i64::MAX));
}

#[test]
fn secrets_do_not_show_in_debug_output() {
    let request = ism::EndpointTokenValidationRequest { token: "topsecret".into(), ..Default::default() };
    assert!(!format!("{request:?}").contains("topsecret"));
    let basic = ism::ClientBasicAuthenticationRequest { password: "topsecret".into(), ..Default::default() };
    assert!(!format!("{basic:?}").contains("topsecret"));
    let caller = ism::AuthenticationRequest { credential: "topsecret".into(), ..Default::default() };
    assert!(!format!("{caller:?}").contains("topsecret"));
    assert_eq!(
        ism::EndpointTokenValidationRequest::decode(&request.encode()).unwrap().token.as_str(),
        "topsecret"
    );
}
