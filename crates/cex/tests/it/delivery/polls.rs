//! Devices that ask for commands.

use serde_json::json;

use crate::bed::answer;
use crate::delivery::bed::Bed;

const PATIENT: &[(&str, &str)] = &[("cex.retry_pause_ms", "600000"), ("cex.retry_pause_max_ms", "600000")];

#[tokio::test(flavor = "multi_thread")]
async fn a_device_gets_what_is_outstanding_until_it_reports_the_results() {
    let bed = Bed::start(PATIENT).await;
    for payload in ["", "{}", r#"{"observe": true}"#] {
        assert_eq!(bed.poll("/command/reboot", payload).await, json!([]));
    }
    assert_eq!(bed.poll("/command", "").await, json!([]));
    let _first = bed.invoke("reboot", Some(r#"{"delay": 5}"#), 60_000).await;
    bed.reaches("reboot", 1, "CREATED").await;
    let _second = bed.invoke("reboot", Some("now"), 60_000).await;
    bed.reaches("reboot", 2, "CREATED").await;
    let _other = bed.invoke("zero", None, 60_000).await;
    bed.reaches("zero", 1, "CREATED").await;
    let both = json!([{"id": 1, "payload": {"delay": 5}}, {"id": 2, "payload": "now"}]);
    for _ in 0..2 {
        assert_eq!(bed.poll("/command/reboot", "{}").await, both);
    }
    let all = bed.poll("/command", "{}").await;
    let mut all = all.as_array().unwrap().clone();
    all.sort_by_key(|command| command["type"].to_string() + &command["id"].to_string());
    assert_eq!(
        json!(all),
        json!([
            {"id": 1, "type": "reboot", "payload": {"delay": 5}},
            {"id": 2, "type": "reboot", "payload": "now"},
            {"id": 1, "type": "zero"},
        ])
    );
    assert_eq!(bed.states("zero", 1).await, ["CREATED", "SENT"]);
    bed.result("reboot", r#"[{"id": 1, "statusCode": 200}]"#).await;
    assert_eq!(bed.poll("/command/reboot", "").await, json!([{"id": 2, "payload": "now"}]));
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_stops_and_resumes_pushes() {
    let bed = Bed::start(PATIENT).await;
    bed.report(|_| Some(200));
    assert_eq!(bed.poll("/command/reboot", r#"{"observe": false}"#).await, json!([]));
    let _quiet = bed.invoke("reboot", None, 60_000).await;
    bed.reaches("reboot", 1, "CREATED").await;
    let _other = bed.invoke("zero", None, 60_000).await;
    bed.reaches("zero", 1, "DELIVERED").await;
    bed.connect().await;
    let _other = bed.invoke("zero", None, 60_000).await;
    bed.reaches("zero", 2, "DELIVERED").await;
    assert!(bed.pushes().iter().all(|push| push.path == "/command/zero"), "{:?}", bed.pushes());
    // All types: also those that nobody has spoken of yet.
    bed.poll("/command", r#"{"observe": false}"#).await;
    let _quiet = bed.invoke("open", None, 60_000).await;
    bed.reaches("open", 1, "CREATED").await;
    bed.poll("/command", r#"{"observe": true}"#).await;
    let _third = bed.invoke("open", None, 60_000).await;
    bed.reaches("open", 2, "DELIVERED").await;
    bed.poll("/command/reboot", r#"{"observe": true}"#).await;
    let _second = bed.invoke("reboot", None, 60_000).await;
    bed.reaches("reboot", 2, "DELIVERED").await;
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poll_that_may_wait_is_answered_as_soon_as_a_command_comes() {
    let bed = Bed::start(PATIENT).await;
    // Nobody pushes: what the device gets, it gets from its poll.
    bed.poll("/command", r#"{"observe": false}"#).await;
    let poll = bed.ask("/command/reboot", 60).await;
    let all = bed.ask("/command", 60).await;
    let _caller = bed.invoke("reboot", Some("1"), 60_000).await;
    assert_eq!(answer(poll).await, (200, String::new(), Some(json!([{"id": 1, "payload": 1}]))));
    assert_eq!(
        answer(all).await,
        (200, String::new(), Some(json!([{"id": 1, "type": "reboot", "payload": 1}])))
    );
    // Another type is none of this poll's.
    assert_eq!(answer(bed.ask("/command/zero", 1).await).await.2, Some(json!([])));
    assert!(bed.pushes().is_empty());
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_is_refused() {
    let bed = Bed::start(PATIENT).await;
    let reason = bed.refused(400, "/command/reboot", r#"{"observe": "yes"}"#).await;
    assert!(reason.contains(r#"{"observe": true|false}"#), "{reason}");
    let reason = bed.refused(400, "/command", r#"{"observed": true}"#).await;
    assert!(reason.contains("unknown field `observed`"), "{reason}");
    let reason = bed.refused(400, "/command/a.b", "").await;
    assert!(reason.contains("a command type must be"), "{reason}");
    bed.refused(404, "/commands", "").await;
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poll_that_waits_does_not_hold_up_the_end_of_the_service() {
    let bed = Bed::start(PATIENT).await;
    let poll = bed.ask("/command/reboot", 60).await;
    // It is answered after the first, so both are there.
    assert_eq!(bed.poll("/command", "").await, json!([]));
    bed.stop().await;
    let (status, reason, commands) = answer(poll).await;
    assert_eq!((status, commands), (504, None), "{reason}");
}
