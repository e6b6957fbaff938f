//! Points of other services (14/TSTP).

use std::collections::BTreeMap;

use futures::StreamExt as _;
use ids::{InstanceName, TimeSeriesName};
use ism::tstp::{Value, data_points_received};
use ism::{DataPoint, Record as _, TimeSeriesEvent, TimeSeriesProcessed};
use runtime::now_ms;
use serde_json::json;

use crate::bed::{Bed, PATIENCE, Register};

const T: i64 = 1_700_000_000_000;

fn event(series: &str, endpoint: &str, points: &[(i64, f64)]) -> TimeSeriesEvent {
    let point = |(timestamp, value): &(i64, f64)| DataPoint {
        ingestion_timestamp: now_ms(),
        timestamp: *timestamp,
        values: BTreeMap::from([("value".to_owned(), Value::Double(*value))]),
    };
    TimeSeriesEvent {
        correlation_id: "c".to_owned(),
        timestamp: now_ms(),
        timeout: 10_000,
        app_version_name: "app-v1".to_owned(),
        endpoint_id: endpoint.to_owned(),
        time_series_name: series.to_owned(),
        data_points: points.iter().map(point).collect(),
    }
}

/// Transmits as a service would: status and reason, or none when nobody answers.
async fn transmit(bed: &Bed, from: &str, event: &TimeSeriesEvent) -> Option<(i32, String)> {
    let series = TimeSeriesName::parse(&event.time_series_name).unwrap();
    let subject = data_points_received(&InstanceName::parse(from).unwrap(), &series);
    let answer = bed.client.request(subject, event.encode()).await.ok()?;
    let processed = TimeSeriesProcessed::decode(&answer.payload).unwrap();
    assert_eq!(processed.correlation_id, event.correlation_id);
    Some((processed.status_code, processed.reason_phrase.unwrap_or_default()))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_confirmed_can_be_read_and_a_repeat_is_stored_once() {
    let bed = Bed::new(Register::from([("app", json!({}))])).await;
    let replica = bed.start(&[]).await;
    let mut own = bed
        .client
        .subscribe("kaa.v1.events.epts.endpoint.data-collection.data-points-received.*")
        .await
        .unwrap();
    bed.client.flush().await.unwrap();
    let points = event("connectivity", "e", &[(T, 1.0), (T + 1_500, 0.0)]);
    for _ in 0..2 {
        assert_eq!(transmit(&bed, "epl", &points).await, Some((200, String::new())));
    }
    assert_eq!(
        replica.points("app", "e", "connectivity").await,
        [
            ("2023-11-14T22:13:20Z".to_owned(), json!({"value": 1})),
            ("2023-11-14T22:13:21.500Z".to_owned(), json!({"value": 0})),
        ]
    );
    let books = replica.books("app").await;
    assert_eq!(books["points"]["stored"], json!(2));
    assert_eq!(books["points"]["duplicates"], json!(2));
    // Its transmitter has announced it; what comes from devices is announced as ever.
    bed.store("app", "e", &[json!({"t": 1})]).await;
    let announced = tokio::time::timeout(PATIENCE, own.next()).await.unwrap().unwrap();
    assert!(announced.subject.ends_with(".auto~t"), "{}", announced.subject);
    replica.platform.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_point_is_refused_with_all_of_its_event() {
    let bed = Bed::new(Register::from([("app", json!({}))])).await;
    let replica = bed.start(&[("epts.points_per_message_max", "2")]).await;
    let refused = async |event: TimeSeriesEvent| transmit(&bed, "epl", &event).await.unwrap();
    let (status, reason) = refused(event("s", "e", &[(T, 1.0), (-5, 1.0)])).await;
    assert_eq!(
        (status, reason.contains("point 1") && reason.contains("before 1970")),
        (400, true),
        "{reason}"
    );
    assert_eq!(refused(event("s", "e", &[(T, 1.0); 3])).await.0, 413);
    assert_eq!(refused(event("~unextracted", "e", &[(T, 1.0)])).await.0, 400);
    assert_eq!(refused(event("s", "a/b", &[(T, 1.0)])).await.0, 400);
    let unknown = TimeSeriesEvent { app_version_name: "none-v1".to_owned(), ..event("s", "e", &[(T, 1.0)]) };
    assert_eq!(refused(unknown).await.0, 404);
    assert!(replica.points("app", "e", "s").await.is_empty());
    replica.platform.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_configured_transmitters_and_series_are_taken() {
    let bed = Bed::new(Register::from([("app", json!({}))])).await;
    let replica = bed.start(&[("epts.tstp.receiver.from.greeter.time_series", "[\"hello\"]")]).await;
    assert_eq!(transmit(&bed, "greeter", &event("hello", "e", &[(T, 1.0)])).await.unwrap().0, 200);
    assert_eq!(transmit(&bed, "epl", &event("connectivity", "e", &[(T, 1.0)])).await.unwrap().0, 200);
    assert_eq!(transmit(&bed, "stranger", &event("hello", "e", &[(T + 1, 1.0)])).await, None);
    // Others may take that series of this transmitter: who does not take it does not answer for it.
    let subject = data_points_received(
        &InstanceName::parse("greeter").unwrap(),
        &TimeSeriesName::parse("bye").unwrap(),
    );
    let other = event("bye", "e", &[(T, 1.0)]);
    bed.client.publish(subject, other.encode()).await.unwrap();
    // Taken in order: when this one is stored, that one was looked at.
    assert_eq!(transmit(&bed, "greeter", &event("hello", "e", &[(T + 2, 1.0)])).await.unwrap().0, 200);
    assert!(replica.points("app", "e", "bye").await.is_empty());
    assert_eq!(replica.points("app", "e", "hello").await.len(), 2);
    replica.platform.stop().await.unwrap();
}
