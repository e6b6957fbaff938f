//! Settings, refusals and limits, seen from a device.

use std::time::Duration;

use ism::Record as _;
use ism::dstp::DATA_SAMPLES_RECEIVED;
use serde_json::{Value, json};

use crate::bed::{Bed, Register};

/// The batch of Kaa's documentation, with its settings.
#[tokio::test(flavor = "multi_thread")]
async fn historical_batches_are_stored_at_their_own_time() {
    let settings = json!({
        "names": {"location": {"values": [
            {"path": "$.location.lat", "name": "lat", "type": "number"},
            {"path": "$.location.lon", "name": "lon", "type": "number"}]}},
        "timestamp": {"path": "ts", "format": "iso8601", "fallback-strategy": "fail"}});
    let bed = Bed::new(Register::from([("app", settings)])).await;
    let replica = bed.start(&[]).await;
    let location = json!({"lat": 34.1340258, "lon": -118.3238652});
    bed.store("app", "e", &[
        json!({"ts": "2019-04-26T15:41:07+0000", "temperature": 21, "humidity": 73, "location": location}),
        json!({"ts": "2019-04-26T16:41:07+0000", "temperature": 21.5, "humidity": 67, "location": location}),
    ])
    .await;
    let times = ["2019-04-26T15:41:07Z", "2019-04-26T16:41:07Z"].map(str::to_owned);
    let expected: Vec<(String, Value)> =
        times.iter().cloned().zip([json!({"value": 21}), json!({"value": 21.5})]).collect();
    assert_eq!(replica.points("app", "e", "auto~temperature").await, expected);
    let expected: Vec<(String, Value)> = times.into_iter().map(|time| (time, location.clone())).collect();
    assert_eq!(replica.points("app", "e", "location").await, expected);

    let partitions: Vec<String> = sqlx::query_scalar(
        "SELECT relname::text FROM pg_class WHERE relname LIKE 'point_2019%_20200101' AND relkind = 'r'",
    )
    .fetch_all(&bed.sql().await)
    .await
    .unwrap();
    assert_eq!(partitions, ["point_20190101_20200101"]);
    replica.platform.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_messages_are_refused_with_the_reason_and_store_nothing() {
    let bed = Bed::new(Register::from([
        ("plain", json!({})),
        ("typed", json!({"names": {"s": {"values": [{"path": "$.a", "type": "string"}]}}})),
        ("timed", json!({"timestamp": {"path": "ts"}})),
        ("wrong", json!({"names": {"bad name": {"values": [{"path": "a"}]}}})),
    ]))
    .await;
    let replica =
        bed.start(&[("epts.points_per_message_max", "3"), ("epts.series_per_endpoint_max", "2")]).await;

    let broken = bed.raw_event("plain", "e", &["{\"a\": 1}".to_owned(), "{\"a\": ".to_owned()]);
    let mut cases = vec![(bed.send(broken).await, 400, "sample 1 is not valid JSON")];
    cases.push((bed.refused("absent", json!({"a": 1})).await, 404, "absent-v1 does not exist"));
    cases.push((
        bed.refused("typed", json!({"a": 1})).await,
        400,
        "series s expects a string at $.a, found a number",
    ));
    cases.push((bed.refused("typed", json!({"a": "x\u{0}"})).await, 400, "U+0000"));
    cases.push((bed.refused("timed", json!({"a": 1})).await, 400, "no timestamp at ts"));
    cases.push((bed.refused("timed", json!({"ts": "2100-01-01T00:00:00Z"})).await, 400, "in the future"));
    cases.push((
        bed.refused("plain", json!({"a": 1, "b": 2, "c": 3, "d": 4})).await,
        413,
        "points_per_message_max",
    ));
    cases.push((bed.refused("plain", json!({"a": 1, "b": 2, "c": 3})).await, 429, "series_per_endpoint_max"));
    cases.push((bed.refused("wrong", json!({"a": 1})).await, 500, "time-series.names.bad name"));
    let mut event = bed.event("plain", "e", &[json!({"a": 1})]);
    event.content_type = "text/plain".to_owned();
    cases.push((bed.send(event).await, 400, "application/json"));
    let mut event = bed.event("plain", "e", &[json!({"a": 1})]);
    event.endpoint_id = "a/b".to_owned();
    cases.push((bed.send(event).await, 400, "an endpoint id must be"));
    for ((status, reason), expected, word) in cases {
        assert!(
            status == expected && reason.contains(word),
            "expected {expected} {word}, got {status} {reason}"
        );
    }
    let stored: i64 =
        sqlx::query_scalar("SELECT count(*) FROM point").fetch_one(&bed.sql().await).await.unwrap();
    assert_eq!(stored, 0);
    let books = replica.books("plain").await;
    assert_eq!(
        books["messages"]["refused"],
        json!({"not-json": 1, "too-many-points": 1, "too-many-series": 1, "content-type": 1})
    );
    assert_eq!((&books["messages"]["received"], &books["messages"]["inFlight"]), (&json!(4), &json!(0)));

    // A limit that one message meets does not touch the others.
    bed.store("plain", "e", &[json!({"a": 1, "b": 2})]).await;
    replica.platform.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn samples_without_points_are_kept_as_they_came() {
    let bed = Bed::new(Register::from([("app", json!({}))])).await;
    let replica = bed.start(&[]).await;
    let samples = [json!(15), json!([85, 34]), json!({"name": "x", "nul": "\u{0}"}), json!(null)];
    bed.store("app", "e", &samples).await;
    let body = replica
        .read("applications/app/unextracted-samples?endpointId=e&fromDate=now-1h&toDate=now%2B1h")
        .await;
    let kept: Vec<Value> = body.as_array().unwrap().iter().map(|kept| kept["sample"].clone()).collect();
    assert_eq!(kept, samples);
    assert!(body[0]["endpointId"] == "e" && body[0]["timestamp"].as_str().unwrap().ends_with('Z'));
    assert_eq!(replica.read("time-series/config?applicationNames=app").await, json!({"app": []}));
    replica.platform.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nulls_booleans_text_and_great_integers_come_back_as_they_were_sent() {
    let settings = json!({"names": {"s": {"values": [
        {"path": "n", "name": "n"}, {"path": "b", "name": "b"}, {"path": "t", "name": "t"}, {"path": "o", "name": "o"}]}}});
    let bed = Bed::new(Register::from([("app", settings)])).await;
    let replica = bed.start(&[]).await;
    bed.store(
        "app",
        "e",
        &[json!({"n": null, "b": true, "t": "a\"ü", "o": {"x": [1]}, "big": 9_007_199_254_740_993_i64})],
    )
    .await;
    let values =
        |points: Vec<(String, Value)>| points.into_iter().map(|(_, values)| values).collect::<Vec<_>>();
    assert_eq!(
        values(replica.points("app", "e", "s").await),
        [json!({"n": null, "b": true, "t": "a\"ü", "o": "{\"x\":[1]}"})]
    );
    assert_eq!(
        values(replica.points("app", "e", "auto~big").await),
        [json!({"value": 9_007_199_254_740_993_i64})]
    );
    replica.platform.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_comes_too_late_is_neither_stored_nor_answered() {
    let bed = Bed::new(Register::from([("app", json!({}))])).await;
    let replica = bed.start(&[]).await;
    let subject = DATA_SAMPLES_RECEIVED.of(&ids::InstanceName::parse("dcx").unwrap());
    let mut event = bed.event("app", "e", &[json!({"t": 1})]);
    event.timestamp -= 20_000;
    let request = bed.client.request(subject, event.encode());
    // One that comes after it is answered, so the first has been looked at.
    let late = tokio::time::timeout(Duration::from_secs(2), request);
    let sample = [json!({"u": 1})];
    let (late, ()) = tokio::join!(late, bed.store("app", "e", &sample));
    assert!(late.is_err(), "{late:?}");
    assert_eq!(replica.points("app", "e", "auto~t").await, []);
    replica.platform.stop().await.unwrap();
}
