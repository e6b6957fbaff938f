//! What bounds a read.

use serde_json::json;

use crate::bed::{Bed, Register};

#[tokio::test(flavor = "multi_thread")]
async fn a_query_for_too_many_bytes_names_the_limit() {
    let settings = json!({"names": {"s": {"values": [{"path": "s"}]}}});
    let bed = Bed::new(Register::from([("app", settings)])).await;
    let replica =
        bed.start(&[("epts.bytes_per_query_max", "1048576"), ("postgres.max_connections", "2")]).await;
    let text = "x".repeat(400_000);
    for _ in 0..3 {
        // One sample with a point, and one that is kept as it came.
        bed.store("app", "e", &[json!({ "s": text })]).await;
        bed.store("app", "e", &[json!([text])]).await;
    }
    let range = "endpointId=e&fromDate=now-1h&toDate=now%2B1h";
    for path in [
        format!("applications/app/time-series/data?timeSeriesName=s&{range}"),
        format!("applications/app/unextracted-samples?{range}"),
    ] {
        // More often than there are connections: none is lost.
        for _ in 0..4 {
            let (status, body) = replica.get(&path).await;
            assert!(
                status == 400 && body["message"].as_str().unwrap().contains("epts.bytes_per_query_max"),
                "{body}"
            );
        }
        assert_eq!(replica.get(&format!("{path}&limit=2")).await.0, 200);
    }
    replica.platform.stop().await.unwrap();
}
