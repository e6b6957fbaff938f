//! Old data goes by whole partitions.

use serde_json::json;
use testkit::eventually;

use crate::bed::{Bed, PATIENCE, Register};

#[tokio::test(flavor = "multi_thread")]
async fn outdated_partitions_are_dropped_and_old_timestamps_refused() {
    let settings = json!({"timestamp": {"path": "ts", "fallback-strategy": "server-timestamp"}});
    let strict = json!({"timestamp": {"path": "ts", "fallback-strategy": "fail"}});
    let bed = Bed::new(Register::from([("app", settings), ("strict", strict)])).await;
    let old = json!({"ts": "2019-04-26T15:41:07Z", "t": 1});
    let forever = bed.start(&[]).await;
    bed.store("app", "e", &[old.clone(), json!({"t": 2})]).await;
    assert_eq!(forever.points("app", "e", "auto~t").await.len(), 2);
    forever.platform.stop().await.unwrap();

    let month = bed.start(&[("epts.retention_days", "30"), ("epts.maintenance_interval_ms", "50")]).await;
    let sql = bed.sql().await;
    eventually("the partition of 2019 is gone", PATIENCE, async || {
        let left: i64 =
            sqlx::query_scalar("SELECT count(*) FROM pg_class WHERE relname = 'point_20190101_20200101'")
                .fetch_one(&sql)
                .await
                .unwrap();
        (left == 0).then_some(())
    })
    .await;
    assert_eq!(month.points("app", "e", "auto~t").await.len(), 1);
    let (status, reason) = bed.send(bed.event("strict", "e", std::slice::from_ref(&old))).await;
    assert!(status == 400 && reason.contains("retention_days"), "{status} {reason}");
    // Where the application says so, such a sample gets the server's time.
    bed.store("app", "e", &[old]).await;
    assert_eq!(month.points("app", "e", "auto~t").await.len(), 2);
    month.platform.stop().await.unwrap();
}
