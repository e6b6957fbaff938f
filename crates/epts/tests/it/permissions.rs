//! With a user of NATS of its own, the service is allowed all that it needs.

use epts::Epts;
use futures::StreamExt as _;
use ids::{InstanceName, ReplicaId};
use ism::dstp::{DATA_SAMPLES_PROCESSED, DATA_SAMPLES_RECEIVED};
use ism::tstp::{DATA_POINTS_RECEIVED, TIME_SERIES_PROCESSED};
use ism::{DataPoint, DataSamplesEvent, DataSamplesProcessed, Record, TimeSeriesEvent, TimeSeriesProcessed};
use runtime::{entry, now_ms};
use serde_json::json;
use testbed::{PATIENCE, Testbed};

use crate::bed::{Register, serve};

/// Sends as a transmitter, and reads the answer.
async fn exchange<R: Record>(
    bed: &Testbed,
    subject: String,
    message: ism::subject::Message,
    event: &impl Record,
) -> R {
    let reply = message.reply(&ReplicaId::parse("transmitter-1").unwrap(), 7);
    let mut answers = bed.client.subscribe(reply.clone()).await.unwrap();
    bed.client.publish_with_reply(subject, reply, event.encode()).await.unwrap();
    let answer = tokio::time::timeout(PATIENCE, answers.next()).await.unwrap().unwrap();
    R::decode(&answer.payload).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn its_own_subjects_are_enough() {
    let bed = Testbed::start(&[entry::<Epts>()], &[]).await;
    let tekton = serve(bed.client.clone(), Register::from([("app", json!({}))])).await;
    let mut announced = bed.client.subscribe("kaa.v1.events.epts.>").await.unwrap();
    let samples = DataSamplesEvent {
        correlation_id: "c".to_owned(),
        timestamp: now_ms(),
        timeout: 10_000,
        app_version_name: "app-v1".to_owned(),
        endpoint_id: "e".to_owned(),
        content_type: "application/json".to_owned(),
        data_samples: vec!["{\"t\": 1}".into()],
    };
    let instance = |name| InstanceName::parse(name).unwrap();
    let subject = DATA_SAMPLES_RECEIVED.of(&instance("dcx"));
    let answer: DataSamplesProcessed = exchange(&bed, subject, DATA_SAMPLES_PROCESSED, &samples).await;
    assert_eq!(answer.status_code, 200, "{answer:?}");
    let event = tokio::time::timeout(PATIENCE, announced.next()).await.unwrap().unwrap();
    assert!(event.subject.ends_with("data-points-received.auto~t"), "{}", event.subject);

    let value = ism::tstp::Value::Double(1.0);
    let point = DataPoint {
        ingestion_timestamp: 0,
        timestamp: now_ms(),
        values: [("value".to_owned(), value)].into(),
    };
    let points = TimeSeriesEvent {
        correlation_id: "c".to_owned(),
        timestamp: now_ms(),
        timeout: 10_000,
        app_version_name: "app-v1".to_owned(),
        endpoint_id: "e".to_owned(),
        time_series_name: "connectivity".to_owned(),
        data_points: vec![point],
    };
    let subject = format!("{}.connectivity", DATA_POINTS_RECEIVED.of(&instance("epl")));
    let answer: TimeSeriesProcessed = exchange(&bed, subject, TIME_SERIES_PROCESSED, &points).await;
    assert_eq!(answer.status_code, 200, "{answer:?}");
    tekton.abort();
    bed.stop().await;
}
