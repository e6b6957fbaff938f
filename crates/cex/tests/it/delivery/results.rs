//! Results that devices report.

use crate::delivery::bed::{Bed, outcome};

#[tokio::test(flavor = "multi_thread")]
async fn known_results_are_taken_and_the_others_are_named() {
    let bed = Bed::start(&[]).await;
    bed.report(|_| Some(200));
    let mut late = bed.invoke("reboot", None, 200).await;
    assert_eq!(outcome(&mut late).await.status_code, 408);
    bed.reaches("reboot", 1, "EXPIRED").await;
    let mut caller = bed.invoke("reboot", None, 60_000).await;
    bed.reaches("reboot", 2, "DELIVERED").await;
    let mut other = bed.invoke("zero", None, 60_000).await;
    bed.reaches("zero", 1, "DELIVERED").await;
    let results = r#"[{"id": 7, "statusCode": 200}, {"id": 2, "statusCode": 200, "payload": {"ok": true}},
        {"id": 1, "statusCode": 200, "payload": "\u0000"}, {"id": 9, "statusCode": 500}]"#;
    let reason = bed.refused(404, "/result/reboot", results).await;
    assert_eq!(
        reason,
        "commands 7, 9 of type reboot of this endpoint: unknown; command 1: had ended before (EXPIRED), noted as late; \
         all others were taken"
    );
    assert_eq!(outcome(&mut caller).await.payload.as_deref(), Some(br#"{"ok": true}"#.as_slice()));
    let reason = bed.refused(409, "/result/reboot", r#"{"id": 1, "statusCode": 200}"#).await;
    assert!(reason.contains("command 1: had ended before (EXPIRED)"), "{reason}");
    assert_eq!(bed.states("reboot", 1).await.last().unwrap(), "EXPIRED");
    // The same id of another type is another command.
    bed.result("zero", r#"[{"id": 1, "statusCode": 204}]"#).await;
    assert_eq!(outcome(&mut other).await.status_code, 204);
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_of_two_results_counts() {
    let bed = Bed::start(&[]).await;
    bed.report(|_| Some(200));
    let mut caller = bed.invoke("reboot", None, 60_000).await;
    bed.reaches("reboot", 1, "DELIVERED").await;
    bed.result("reboot", r#"[{"id": 1, "statusCode": 200, "payload": 1}, {"id": 1, "statusCode": 500}]"#)
        .await;
    for again in [r#"[{"id": 1, "statusCode": 200, "payload": 1}]"#, r#"{"id": 1, "statusCode": 500}"#] {
        bed.result("reboot", again).await;
    }
    let result = outcome(&mut caller).await;
    assert_eq!((result.status_code, result.payload.as_deref()), (200, Some(b"1".as_slice())));
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_for_what_was_never_acknowledged_counts() {
    let bed = Bed::start(&[("cex.retry_pause_ms", "600000"), ("cex.retry_pause_max_ms", "600000")]).await;
    let mut caller = bed.invoke("reboot", None, 60_000).await;
    bed.reaches("reboot", 1, "CREATED").await;
    bed.result("reboot", r#"[{"id": 1, "statusCode": 200}]"#).await;
    assert_eq!(outcome(&mut caller).await.status_code, 200);
    assert_eq!(bed.states("reboot", 1).await, ["CREATED", "EXECUTED"]);
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_result_is_refused_and_nothing_of_it_is_taken() {
    let bed = Bed::start(&[("cex.payload_bytes_max", "20")]).await;
    bed.report(|_| Some(200));
    let _caller = bed.invoke("reboot", None, 60_000).await;
    bed.reaches("reboot", 1, "DELIVERED").await;
    for (status, payload, part) in [
        (400, "SUCCESS", "neither an array nor an object"),
        (400, "", "it is empty"),
        (400, r#"[{"id": 1, "statusCode": 200}, {"id": 2}]"#, "result 1: missing field `statusCode`"),
        (
            413,
            r#"[{"id": 1, "statusCode": 200, "payload": "012345678901234567890"}]"#,
            "cex.payload_bytes_max",
        ),
    ] {
        let reason = bed.refused(status, "/result/reboot", payload).await;
        assert!(reason.contains(part), "{reason}");
        assert!(reason.contains("none of"), "{reason}");
    }
    bed.result("reboot", "[]").await;
    assert_eq!(bed.states("reboot", 1).await.last().unwrap(), "DELIVERED");
    bed.stop().await;
}
