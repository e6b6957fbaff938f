//! Other services invoke commands (12/CIP).

use crate::delivery::bed::{Bed, outcome, request};

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_repeated_is_about_the_same_command() {
    let bed = Bed::start(&[]).await;
    bed.report(|_| Some(200));
    let mut first = bed.invoke_as(request(-7, "reboot", Some("1"), 60_000)).await;
    bed.reaches("reboot", 1, "DELIVERED").await;
    let mut meanwhile = bed.invoke_as(request(-7, "reboot", Some("1"), 50_000)).await;
    let refused = outcome(&mut bed.invoke_as(request(-7, "reboot", Some("2"), 60_000)).await).await;
    assert_eq!(refused.status_code, 409, "{refused:?}");
    bed.result("reboot", r#"{"id": 1, "statusCode": 200, "payload": 2}"#).await;
    let mut afterwards = bed.invoke_as(request(-7, "reboot", Some("1"), 0)).await;
    for answers in [&mut first, &mut meanwhile, &mut afterwards] {
        let result = outcome(answers).await;
        assert_eq!((result.status_code, result.payload.as_deref()), (200, Some(b"2".as_slice())));
        assert_eq!(result.command_id, -7);
    }
    let commands: i64 =
        sqlx::query_scalar("SELECT count(*) FROM cex.commands").fetch_one(&bed.sql).await.unwrap();
    assert_eq!(commands, 1);
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_invoked_is_refused_with_the_reason() {
    let bed = Bed::start(&[("cex.payload_bytes_max", "3"), ("cex.command_ttl_max_ms", "100000")]).await;
    let mut unknown = request(1, "reboot", None, 60_000);
    unknown.endpoint_id = "nobody".to_owned();
    let mut malformed = request(2, "reboot", None, 60_000);
    malformed.endpoint_id = "a b".to_owned();
    let mut binary = request(3, "reboot", None, 60_000);
    binary.payload = Some(vec![0xff].into());
    for (request, status, part) in [
        (unknown, 404, "endpoint nobody does not exist"),
        (malformed, 400, "an endpoint id must be"),
        (binary, 400, "neither JSON nor text"),
        (request(4, "a.b", None, 60_000), 400, "a command type must be"),
        (request(5, "reboot", Some("1234"), 60_000), 400, "cex.payload_bytes_max"),
        (request(6, "reboot", None, 200_000), 400, "cex.command_ttl_max_ms"),
    ] {
        let id = request.command_id;
        let refused = outcome(&mut bed.invoke_as(request).await).await;
        assert_eq!((refused.status_code, refused.command_id), (status, id), "{refused:?}");
        assert!(refused.reason_phrase.as_deref().unwrap().contains(part), "{refused:?}");
    }
    assert!(bed.pushes().is_empty());
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_may_be_awaited_are_refused() {
    let bed = Bed::start(&[("cex.cip_waiting_max", "1")]).await;
    let mut first = bed.invoke("reboot", None, 60_000).await;
    bed.reaches("reboot", 1, "CREATED").await;
    let refused = outcome(&mut bed.invoke("reboot", None, 60_000).await).await;
    assert_eq!(refused.status_code, 503, "{refused:?}");
    assert!(refused.reason_phrase.as_deref().unwrap().contains("cex.cip_waiting_max"), "{refused:?}");
    bed.result("reboot", r#"{"id": 1, "statusCode": 200}"#).await;
    assert_eq!(outcome(&mut first).await.status_code, 200);
    bed.stop().await;
}
