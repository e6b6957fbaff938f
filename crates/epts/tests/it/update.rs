//! Storing over REST: what is checked before, and what bounds it.

use std::sync::Arc;

use serde_json::{Value, json};
use testkit::eventually;

use crate::bed::{Bed, PATIENCE, Register};

const PATH: &str = "app-versions/app-v1/time-series/data";

fn register() -> Register {
    Register::from([("app", json!({})), ("other", json!({}))])
}

fn update(endpoints: &[&str]) -> Value {
    let series = json!({"level": [{"values": {"value": 1}}]});
    endpoints.iter().map(|endpoint| ((*endpoint).to_owned(), series.clone())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn points_are_stored_only_for_endpoints_of_the_application() {
    let mut bed = Bed::new(register()).await;
    let replica = bed.start(&[]).await;
    for (endpoints, named) in [(["a", "no-b"], "no-b"), (["a", "other-c"], "other-c")] {
        let (status, body) = replica.put(PATH, &update(&endpoints)).await;
        assert!(status == 404 && body["message"].as_str().unwrap().contains(named), "{status} {body}");
    }
    // The others of the call were not stored, either.
    assert_eq!(replica.points("app", "a", "level").await, []);
    assert_eq!(replica.put(PATH, &update(&["a"])).await.0, 204);

    bed.epr = None;
    let (status, body) = eventually("the register is gone", PATIENCE, async || {
        let answer = replica.put(PATH, &update(&["b"])).await;
        (answer.0 != 204).then_some(answer)
    })
    .await;
    assert!(
        status == 503 && body["message"].as_str().unwrap().contains("endpoint register"),
        "{status} {body}"
    );
    // What was learned serves for a while.
    assert_eq!(replica.put(PATH, &update(&["a"])).await.0, 204);
    replica.platform.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn long_texts_take_their_share_of_the_queue() {
    let bed = Arc::new(Bed::new(register()).await);
    let replica = Arc::new(bed.start(&[("epts.queue_bytes_max", "1048576")]).await);
    assert_eq!(replica.put(PATH, &update(&["a"])).await.0, 204);
    let sql = bed.sql().await;
    let mut lock = sql.begin().await.unwrap();
    sqlx::query("LOCK TABLE point IN ACCESS EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
    let body = json!({"a": {"text": [{"values": {"value": "x".repeat(600_000)}}]}});
    let first = tokio::spawn({
        let (replica, body) = (replica.clone(), body.clone());
        async move { replica.put(PATH, &body).await }
    });
    eventually("it waits", PATIENCE, async || {
        (replica.books("app").await["messages"]["inFlight"] == 1).then_some(())
    })
    .await;
    let (status, answer) = replica.put(PATH, &body).await;
    assert!(
        status == 503 && answer["message"].as_str().unwrap().contains("epts.queue_bytes_max"),
        "{status} {answer}"
    );
    lock.rollback().await.unwrap();
    assert_eq!(first.await.unwrap().0, 204);
}
