//! Pushing: at once, in order, again, and never after the end.

use serde_json::json;
use testbed::PATIENCE;
use testkit::eventually;

use crate::delivery::bed::{Bed, ids, outcome};

/// A test that waits for a repetition gets it soon.
const IMPATIENT: &[(&str, &str)] =
    &[("cex.retry_pause_ms", "30"), ("cex.result_pause_ms", "60"), ("cex.retry_pause_max_ms", "100")];
/// Nothing is repeated by itself.
const PATIENT: &[(&str, &str)] = &[
    ("cex.retry_pause_ms", "600000"),
    ("cex.result_pause_ms", "600000"),
    ("cex.retry_pause_max_ms", "600000"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_pushed_at_once_and_its_result_reaches_the_caller() {
    let bed = Bed::start(PATIENT).await;
    bed.report(|_| Some(200));
    let mut caller = bed.invoke("reboot", Some(r#"{"delay": 5.50}"#), 60_000).await;
    let pushes = bed.pushed(1).await;
    assert_eq!(pushes[0].path, "/command/reboot");
    assert_eq!(pushes[0].commands, json!([{"id": 1, "payload": {"delay": 5.50}}]));
    bed.reaches("reboot", 1, "DELIVERED").await;
    bed.result("reboot", r#"[{"id": 1, "statusCode": 202, "reasonPhrase": "soon", "payload": "Success"}]"#)
        .await;
    let result = outcome(&mut caller).await;
    assert_eq!((result.status_code, result.reason_phrase.as_deref()), (202, Some("soon")));
    assert_eq!(result.payload.as_deref(), Some(br#""Success""#.as_slice()));
    assert_eq!((result.app_version_name.as_str(), result.command_id), ("elsewhere-v1", 1_001));
    assert_eq!(bed.states("reboot", 1).await, ["CREATED", "SENT", "DELIVERED", "EXECUTED"]);
    assert_eq!(bed.pushes().len(), 1);
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_acknowledged_is_pushed_again_under_its_id() {
    let bed = Bed::start(IMPATIENT).await;
    let mut reports = vec![404, 504, 404, 200].into_iter();
    bed.report(move |_| Some(reports.next().unwrap_or(200)));
    let mut caller = bed.invoke("reboot", Some("1"), 60_000).await;
    let pushes = bed.pushed(4).await;
    assert!(pushes.iter().all(|push| push.commands == json!([{"id": 1, "payload": 1}])), "{pushes:?}");
    bed.reaches("reboot", 1, "DELIVERED").await;
    bed.result("reboot", r#"[{"id": 1, "statusCode": 200}]"#).await;
    assert_eq!(outcome(&mut caller).await.status_code, 200);
    assert_eq!(bed.states("reboot", 1).await.last().unwrap(), "EXECUTED");
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_result_is_pushed_again() {
    let bed = Bed::start(IMPATIENT).await;
    bed.report(|_| Some(200));
    let mut caller = bed.invoke("reboot", None, 60_000).await;
    let pushes = bed.pushed(3).await;
    assert!(pushes.iter().all(|push| push.commands == json!([{"id": 1}])), "{pushes:?}");
    bed.result("reboot", r#"{"id": 1, "statusCode": 200}"#).await;
    assert_eq!(outcome(&mut caller).await.status_code, 200);
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_connects_gets_what_waits_for_it_in_order() {
    let bed = Bed::start(PATIENT).await;
    for number in 1..=5 {
        let _caller = bed.invoke("zero", Some(&number.to_string()), 60_000).await;
        bed.reaches("zero", number, "CREATED").await;
    }
    // The first one found nobody; the others wait behind it or found nobody either.
    bed.pushed(1).await;
    let before = bed.pushes().len();
    bed.report(|_| Some(200));
    bed.connect().await;
    for id in 1..=5 {
        bed.reaches("zero", id, "DELIVERED").await;
    }
    let delivered: Vec<i64> = bed.pushes()[before..].iter().flat_map(|push| push.ids()).collect();
    assert_eq!(delivered, [1, 2, 3, 4, 5]);
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_the_device_never_acknowledges_harms_only_itself() {
    let bed = Bed::start(IMPATIENT).await;
    bed.report(|push| {
        let is_poisonous = push.resource_path == "/command/zero" && ids(&push.payload).contains(&1);
        Some(if is_poisonous { 504 } else { 200 })
    });
    for number in 1..=3 {
        let _caller = bed.invoke("zero", None, 60_000).await;
        bed.reaches("zero", number, if number == 1 { "SENT" } else { "DELIVERED" }).await;
    }
    let _other = bed.invoke("reboot", None, 60_000).await;
    bed.reaches("reboot", 1, "DELIVERED").await;
    let poisonous = bed.pushes().into_iter().filter(|push| push.path == "/command/zero");
    let poisonous: Vec<Vec<i64>> = poisonous.map(|push| push.ids()).filter(|ids| ids.contains(&1)).collect();
    assert!(poisonous.iter().all(|ids| ids.len() == 1), "{poisonous:?}");
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_pushed_once_it_has_expired() {
    let bed = Bed::start(&[("cex.retry_pause_ms", "20"), ("cex.retry_pause_max_ms", "20")]).await;
    let mut caller = bed.invoke("reboot", None, 300).await;
    let result = outcome(&mut caller).await;
    assert_eq!(result.status_code, 408, "{result:?}");
    bed.reaches("reboot", 1, "EXPIRED").await;
    let until_then = bed.pushes().len();
    assert!(until_then > 1);
    bed.connect().await;
    // What comes later is pushed, and the expired one is not.
    bed.report(|_| Some(200));
    let _caller = bed.invoke("reboot", None, 60_000).await;
    bed.reaches("reboot", 2, "DELIVERED").await;
    assert!(bed.pushes()[until_then..].iter().all(|push| push.ids() == [2]), "{:?}", bed.pushes());
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_finds_no_room_is_made_later() {
    let settings = [("cex.pushes_in_flight_max", "1"), ("cex.push_timeout_ms", "200")];
    let bed = Bed::start(&[&settings, IMPATIENT].concat()).await;
    // Nobody says that he holds the endpoint: the push lasts as long as it may.
    bed.report(|push| (push.resource_path != "/command/zero").then_some(200));
    let _silent = bed.invoke("zero", None, 60_000).await;
    bed.pushed(1).await;
    let _caller = bed.invoke("reboot", None, 60_000).await;
    bed.reaches("reboot", 1, "DELIVERED").await;
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_without_time_to_live_is_tried_once() {
    let bed = Bed::start(IMPATIENT).await;
    let once = "/cex/api/v1/endpoints/e/commands/reboot?commandTtl=0&awaitTimeout=0";
    bed.acme().post(once, &json!(1)).await.expect(202);
    bed.reaches("reboot", 1, "UNDELIVERED").await;
    bed.report(|_| Some(504));
    bed.acme().post(once, &json!(2)).await.expect(202);
    bed.reaches("reboot", 2, "UNDELIVERED").await;
    bed.connect().await;
    bed.report(|_| Some(200));
    bed.acme().post(once, &json!(3)).await.expect(202);
    bed.reaches("reboot", 3, "DELIVERED").await;
    bed.connect().await;
    let _caller = bed.invoke("reboot", None, 60_000).await;
    bed.reaches("reboot", 4, "DELIVERED").await;
    bed.result("reboot", r#"{"id": 3, "statusCode": 200}"#).await;
    bed.reaches("reboot", 3, "EXECUTED").await;
    let first: Vec<Vec<i64>> = bed.pushes().iter().map(|push| push.ids()).take(3).collect();
    assert_eq!(first, [[1], [2], [3]]);
    let again = bed.pushes().into_iter().skip(3).flat_map(|push| push.ids()).find(|id| *id != 4);
    assert_eq!(again, None);
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_goes_away_ends_no_delivery() {
    let bed = Bed::start(IMPATIENT).await;
    for id in 1..=5 {
        let _caller = bed.invoke("zero", None, 60_000).await;
        bed.reaches("zero", id, "CREATED").await;
    }
    let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                WHERE datname = current_database() AND pid <> pg_backend_pid()";
    for _ in 0..3 {
        bed.pushed(bed.pushes().len() + 1).await;
        sqlx::query(kill).execute(&bed.sql).await.unwrap();
    }
    bed.report(|_| Some(200));
    for id in 1..=5 {
        bed.reaches("zero", id, "DELIVERED").await;
    }
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_feed_hears_of_an_endpoint_that_connects() {
    let bed = Bed::start(&[]).await;
    bed.connect().await;
    let told = "SELECT tenant_id, application_name, endpoint_id, is_connected FROM cex.connectivity";
    let told = eventually("connectivity is written", PATIENCE, async || {
        let rows: Vec<(String, String, String, bool)> =
            sqlx::query_as(told).fetch_all(&bed.sql).await.unwrap();
        rows.into_iter().next()
    })
    .await;
    let expected = ("acme".to_owned(), "elsewhere".to_owned(), "e".to_owned(), true);
    assert_eq!(told, expected);
    bed.stop().await;
}
