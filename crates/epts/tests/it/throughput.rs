//! A smoke check of the write path, and the bytes that a point takes. Prints what it finds.

use std::time::Instant;

use futures::StreamExt as _;
use ism::Record as _;
use ism::dstp::DATA_SAMPLES_RECEIVED;
use serde_json::json;

use crate::bed::{Bed, Register};

#[tokio::test(flavor = "multi_thread")]
async fn messages_share_commits() {
    const MESSAGES: usize = 5_000;
    const ENDPOINTS: usize = 100;
    let bed = Bed::new(Register::from([("app", json!({}))])).await;
    let replica = bed.start(&[]).await;
    // Learns the application and makes the series.
    for endpoint in 0..ENDPOINTS {
        bed.store("app", &format!("e{endpoint}"), &[json!({"voltage": 0, "current": 0, "power": 0})]).await;
    }
    let subject = DATA_SAMPLES_RECEIVED.of(&ids::InstanceName::parse("dcx").unwrap());
    let mut answers = bed.client.subscribe("answers").await.unwrap();
    let events: Vec<_> = (0..MESSAGES)
        .map(|index| {
            let sample = json!({"voltage": 230.1, "current": index % 16, "power": 3.5});
            bed.event("app", &format!("e{}", index % ENDPOINTS), &[sample]).encode()
        })
        .collect();
    let started = Instant::now();
    for event in events {
        bed.client.publish_with_reply(subject.clone(), "answers", event).await.unwrap();
    }
    for _ in 0..MESSAGES {
        answers.next().await.unwrap();
    }
    let seconds = started.elapsed().as_secs_f64();
    let (bytes, rows): (i64, i64) = sqlx::query_as(
        "SELECT sum(pg_total_relation_size(inhrelid))::bigint, (SELECT count(*) FROM point)
         FROM pg_inherits WHERE inhparent = 'point'::regclass",
    )
    .fetch_one(&bed.sql().await)
    .await
    .unwrap();
    assert_eq!(usize::try_from(rows).unwrap(), 3 * (MESSAGES + ENDPOINTS));
    let commits: i64 = sqlx::query_scalar("SELECT count(DISTINCT xmin::text) FROM point")
        .fetch_one(&bed.sql().await)
        .await
        .unwrap();
    println!("{:.0} messages/s, {} bytes per point, {commits} commits", 5_000.0 / seconds, bytes / rows);
    assert!(
        usize::try_from(commits).unwrap() < ENDPOINTS + MESSAGES / 2,
        "messages do not share commits: {commits}"
    );
    replica.platform.stop().await.unwrap();
}
