//! Samples without a timestamp never overwrite each other.

use std::sync::Arc;

use serde_json::json;

use crate::bed::{Bed, Register};

#[tokio::test(flavor = "multi_thread")]
async fn server_times_are_unique_across_batches_and_replicas() {
    const MESSAGES: usize = 200;
    const SAMPLES: usize = 25;
    let bed = Arc::new(Bed::new(Register::from([("app", json!({}))])).await);
    let (one, two) = tokio::join!(bed.start(&[]), bed.start(&[("epts.writers", "2")]));
    let sending = (0..MESSAGES).map(|message| {
        let bed = bed.clone();
        async move {
            let samples: Vec<_> = (0..SAMPLES).map(|sample| json!({"a": message, "b": sample})).collect();
            bed.store("app", "same", &samples).await;
        }
    });
    futures::future::join_all(sending).await;

    let counts: Vec<(i64, i64)> = sqlx::query_as(
        "SELECT count(*), count(DISTINCT ts) FROM point JOIN series USING (series_id) GROUP BY name ORDER BY name",
    )
    .fetch_all(&bed.sql().await)
    .await
    .unwrap();
    let all = i64::try_from(MESSAGES * SAMPLES).unwrap();
    assert_eq!(counts, [(all, all), (all, all)]);
    // The points of one sample share a moment: as many moments as samples.
    let moments: i64 =
        sqlx::query_scalar("SELECT count(DISTINCT ts) FROM point").fetch_one(&bed.sql().await).await.unwrap();
    assert_eq!(moments, all);
    let (first, second) = (one.books("app").await, two.books("app").await);
    let stored = |books: &serde_json::Value| books["messages"]["stored"].as_u64().unwrap();
    assert_eq!(stored(&first) + stored(&second), u64::try_from(MESSAGES).unwrap());
    one.platform.stop().await.unwrap();
    two.platform.stop().await.unwrap();
}
