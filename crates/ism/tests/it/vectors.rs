//! The golden vectors: values in Avro's JSON encoding and their exact bytes.

use std::path::Path;

use bytes::Bytes;
use ism::{CATALOGUE, Entry, Record, TrafficReportEvent};
use serde_json::Value as Json;

use crate::oracle;

pub(crate) struct Vector {
    pub(crate) value: Json,
    pub(crate) bytes: Bytes,
}

pub(crate) fn vectors(entry: &Entry) -> Vec<Vector> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto-schemas/vectors");
    let text =
        std::fs::read_to_string(root.join(entry.protocol).join(entry.record).with_extension("json")).unwrap();
    let vectors: Vec<Json> = serde_json::from_str(&text).unwrap();
    vectors
        .iter()
        .map(|vector| Vector { value: vector["value"].clone(), bytes: bytes(&vector["hex"]) })
        .collect()
}

fn bytes(hex: &Json) -> Bytes {
    let hex = hex.as_str().unwrap();
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn the_vectors_are_read_and_written_byte_by_byte() {
    for entry in CATALOGUE {
        let schema = oracle::schema(entry);
        let vectors = vectors(entry);
        assert!(vectors.len() >= 2, "{}", entry.record);
        for vector in vectors {
            assert_eq!((entry.recode)(&vector.bytes).as_ref(), Ok(&vector.bytes), "{}", entry.record);
            assert_eq!(
                oracle::to_json(&schema, &oracle::decode(&schema, &vector.bytes)),
                vector.value,
                "{}",
                entry.record
            );
        }
    }
}

fn first<T: Record>() -> T {
    let entry = CATALOGUE.iter().find(|entry| entry.record == T::NAME).unwrap();
    T::decode(&vectors(entry)[0].bytes).unwrap()
}

#[test]
fn the_values_stand_in_their_fields() {
    let data: ism::ClientData = first();
    assert_eq!((data.timestamp, data.timeout, data.request_id), (1_790_000_000_123, 10_000, Some(42)));
    assert_eq!(
        (data.resource_path.as_str(), data.config_name.as_deref()),
        ("/plain/temperature", Some("night"))
    );
    assert_eq!(data.payload, &b"21.5 \xb0C\0\xff"[..]);

    let event: ism::TimeSeriesEvent = first();
    let point = &event.data_points[0];
    assert_eq!((point.ingestion_timestamp, point.timestamp), (1_790_000_000_200, 1_790_000_000_123));
    assert_eq!(point.values["double"], ism::Value::Double(21.5));
    assert_eq!(point.values["null"], ism::Value::Null);

    let metadata: ism::MetadataUpdatedEvent = first();
    assert_eq!((metadata.removed["a"].as_deref(), metadata.removed["b"].as_deref()), (None, Some("null")));
    let location = ism::MetadataKeyUpdatedDto { new_value: Some(r#"{"lat":1}"#.to_owned()), old_value: None };
    assert_eq!(metadata.updated["location"], location);

    let found: ism::EndpointMetadataGetResponse = first();
    assert_eq!(
        (found.e_tag.as_deref(), found.payload.as_deref()),
        (Some("7"), Some(&br#"{"name":"hall"}"#[..]))
    );

    let caller: ism::AuthenticationResponse = first();
    assert_eq!((caller.role.as_deref(), caller.expires_at), (Some("viewer"), Some(1_790_000_900_000)));
    assert_eq!(caller.grants["pump"], "admin");

    let report: TrafficReportEvent = first();
    let expected = ism::TrafficStat {
        total_received_payload: 1200,
        total_sent_payload: 64,
        total_received_message_count: 12,
        total_sent_message_count: 1,
    };
    assert_eq!(report.tenant_traffic_stats["acme"]["meter"]["ep-1"], expected);
    assert!(report.tenant_traffic_stats["zeta"].is_empty());
}
