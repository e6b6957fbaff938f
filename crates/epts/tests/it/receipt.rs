//! A receipt means committed and readable.

use std::time::Duration;

use futures::StreamExt as _;
use ism::Record as _;
use ism::dstp::DATA_SAMPLES_RECEIVED;
use ism::tstp::{TimeSeriesEvent, Value as Announced};
use serde_json::json;
use testkit::eventually;

use crate::bed::{Bed, PATIENCE, Register};

fn by_device_clock() -> serde_json::Value {
    json!({"timestamp": {"path": "ts", "format": "millis-unix-epoch", "fallback-strategy": "fail"}})
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_confirmed_can_be_read_and_is_announced() {
    let bed = Bed::new(Register::from([("app", json!({}))])).await;
    let replica = bed.start(&[]).await;
    let mut events = bed
        .client
        .subscribe("kaa.v1.events.epts.endpoint.data-collection.data-points-received.*")
        .await
        .unwrap();
    bed.client.flush().await.unwrap();

    let event = bed.event(
        "app",
        "meter-1",
        &[json!({"temperature": 21, "humidity": 73.5}), json!({"temperature": 22})],
    );
    let correlation_id = event.correlation_id.clone();
    assert_eq!(bed.send(event).await, (200, String::new()));

    let points = replica.points("app", "meter-1", "auto~temperature").await;
    let values: Vec<_> = points.iter().map(|(_, values)| values.clone()).collect();
    assert_eq!(values, [json!({"value": 21}), json!({"value": 22})]);

    let mut announced = Vec::new();
    for _ in 0..2 {
        let message = tokio::time::timeout(PATIENCE, events.next()).await.unwrap().unwrap();
        let event = TimeSeriesEvent::decode(&message.payload).unwrap();
        assert!(message.subject.ends_with(&event.time_series_name));
        assert_eq!(
            (event.correlation_id.as_str(), event.endpoint_id.as_str()),
            (correlation_id.as_str(), "meter-1")
        );
        assert_eq!(event.app_version_name, "app-v1");
        let values: Vec<_> = event.data_points.iter().map(|point| point.values["value"].clone()).collect();
        announced.push((event.time_series_name, values));
    }
    assert_eq!(
        announced,
        [
            ("auto~humidity".to_owned(), vec![Announced::Double(73.5)]),
            ("auto~temperature".to_owned(), vec![Announced::Double(21.0), Announced::Double(22.0)]),
        ]
    );
    replica.platform.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resend_is_stored_once_and_a_change_is_counted() {
    let bed = Bed::new(Register::from([("app", by_device_clock())])).await;
    let replica = bed.start(&[]).await;
    let sample = |t: i32| json!({"ts": 1_700_000_000_000_i64, "t": t, "u": 5});
    bed.store("app", "e", &[sample(1)]).await;
    bed.store("app", "e", &[sample(1)]).await;
    bed.store("app", "e", &[sample(2)]).await;
    // Within one message the last value wins, too.
    bed.store("app", "e", &[sample(3), sample(4)]).await;
    assert_eq!(
        replica.points("app", "e", "auto~t").await,
        [("2023-11-14T22:13:20Z".to_owned(), json!({"value": 4}))]
    );
    assert_eq!(replica.points("app", "e", "auto~u").await.len(), 1);

    let books = replica.books("app").await;
    assert_eq!(
        books["messages"],
        json!({"received": 4, "stored": 4, "refused": {}, "failed": 0, "expired": 0, "inFlight": 0})
    );
    assert_eq!(
        books["points"],
        json!({"received": 10, "stored": 2, "duplicates": 5, "changed": 3, "refused": 0,
        "failed": 0, "expired": 0, "inFlight": 0})
    );
    replica.platform.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_is_finished_and_answered_before_the_stop() {
    let bed = Bed::new(Register::from([("app", by_device_clock())])).await;
    let replica = bed.start(&[]).await;
    let subject = DATA_SAMPLES_RECEIVED.of(&ids::InstanceName::parse("dcx").unwrap());
    let mut answers = bed.client.subscribe("answers").await.unwrap();
    for index in 0..500_i64 {
        let event = bed.event("app", "e", &[json!({"ts": 1_700_000_000_000 + index, "t": 1})]);
        bed.client.publish_with_reply(subject.clone(), "answers", event.encode()).await.unwrap();
    }
    bed.client.flush().await.unwrap();
    // As soon as the first is answered the others are on their way.
    tokio::time::timeout(PATIENCE, answers.next()).await.unwrap().unwrap();
    replica.platform.stop().await.unwrap();
    let mut answered = 1;
    while tokio::time::timeout(Duration::from_millis(500), answers.next()).await.is_ok() {
        answered += 1;
    }
    let stored: i64 =
        sqlx::query_scalar("SELECT count(*) FROM point").fetch_one(&bed.sql().await).await.unwrap();
    assert_eq!((answered, stored), (500, 500));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_reply_subject_samples_are_stored_all_the_same() {
    let bed = Bed::new(Register::from([("app", json!({}))])).await;
    let replica = bed.start(&[]).await;
    let subject = DATA_SAMPLES_RECEIVED.of(&ids::InstanceName::parse("dcx").unwrap());
    bed.client.publish(subject, bed.event("app", "e", &[json!({"t": 1})]).encode()).await.unwrap();
    eventually("the point", PATIENCE, async || {
        (replica.points("app", "e", "auto~t").await.len() == 1).then_some(())
    })
    .await;
    replica.platform.stop().await.unwrap();
}
