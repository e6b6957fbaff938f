//! Reading, and storing over REST.

use serde_json::{Value, json};

use crate::bed::{Bed, Register, Replica};

const START: &str = "2026-01-01T00:00:00Z";

/// Two endpoints with a point a minute for five minutes.
async fn filled() -> (Bed, Replica) {
    let settings = json!({
        "names": {"position": {"values": [{"path": "lat", "name": "lat"}, {"path": "lon", "name": "lon"}]}},
        "timestamp": {"path": "ts", "fallback-strategy": "server-timestamp"}});
    let bed = Bed::new(Register::from([("app", settings), ("empty", json!({}))])).await;
    let replica = bed.start(&[("epts.points_per_query_max", "12")]).await;
    for endpoint in ["a", "b"] {
        let samples: Vec<Value> =
            (0..5).map(|minute| json!({"ts": format!("2026-01-01T00:0{minute}:00Z"), "t": minute})).collect();
        bed.store("app", endpoint, &samples).await;
    }
    (bed, replica)
}

/// The values called `value` of one series.
fn numbers(body: &Value, endpoint: usize, id: &str) -> Vec<i64> {
    let points = body[endpoint][id]["auto~t"].as_array().cloned().unwrap_or_default();
    points.iter().map(|point| point["values"]["value"].as_i64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_are_read_by_endpoint_and_time() {
    let (_bed, replica) = filled().await;
    let data = |query: &str| format!("applications/app/time-series/data?timeSeriesName=auto~t&{query}");
    let range =
        |more: &str| data(&format!("fromDate={START}&toDate=2026-01-01T00:03:00%2B0000&endpointId=a{more}"));
    for (more, expected) in [
        ("", vec![0, 1, 2]),
        ("&includeTime=to", vec![1, 2, 3]),
        ("&includeTime=both&sort=DESC", vec![3, 2, 1, 0]),
        ("&includeTime=none", vec![1, 2]),
        ("&limit=2", vec![0, 1]),
        ("&limit=2&sort=DESC", vec![2, 1]),
    ] {
        assert_eq!(numbers(&replica.read(&range(more)).await, 0, "a"), expected, "{more}");
    }
    let both = replica.read(&data("fromDate=2025-12-31&toDate=now&endpointId=a,b")).await;
    assert_eq!((numbers(&both, 0, "a").len(), numbers(&both, 1, "b").len()), (5, 5));
    assert_eq!(replica.read(&data("fromDate=2025-12-31&toDate=now")).await, both);
    assert_eq!(both[0]["a"]["auto~t"][0], json!({"timestamp": START, "values": {"value": 0}}));
    assert_eq!(replica.read(&data("fromDate=now-5m&toDate=now")).await, json!([]));

    for (path, status, word) in [
        (data("fromDate=yesterday&toDate=now"), 400, "fromDate is not a date"),
        (data("fromDate=now&toDate=now-1d"), 400, "fromDate is after toDate"),
        (data("fromDate=now-9000y&toDate=now"), 400, "fromDate is out of range: give a date from 0000-01-01"),
        (data("fromDate=-262143-01-01T00:00:00Z&toDate=now"), 400, "to 9999-12-31T23:59:59Z"),
        (data("fromDate=now"), 400, "toDate is missing"),
        (data("fromDate=now-1d&toDate=now&sort=UP"), 400, "sort"),
        ("applications/app/time-series/data?fromDate=now-1d&toDate=now".to_owned(), 400, "timeSeriesName"),
        (
            "applications/none/time-series/data?timeSeriesName=a&fromDate=now-1d&toDate=now".to_owned(),
            404,
            "none",
        ),
    ] {
        let (got, body) = replica.get(&path).await;
        assert!(got == status && body["message"].as_str().unwrap().contains(word), "{path}: {got} {body}");
    }
    replica.platform.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn last_points_are_read() {
    let (bed, replica) = filled().await;
    let last = "applications/app/time-series/last";
    let body = replica.read(&format!("{last}?timeSeriesName=auto~t,other")).await;
    assert_eq!((numbers(&body, 0, "a"), numbers(&body, 1, "b")), (vec![4], vec![4]));
    let body = replica
        .read(&format!("{last}?timeSeriesName=auto~t&endpointId=b&beforeDate=2026-01-01T00:03:00Z"))
        .await;
    assert_eq!(numbers(&body, 0, "b"), [2]);

    bed.store("app", "a", &[json!({"lat": 1, "lon": null})]).await;
    let (status, body) = replica.post(last, &json!({})).await;
    assert_eq!((status, &body[0]["a"]["position"][0]["values"]), (200, &json!({"lat": 1, "lon": null})));
    let (_, page) =
        replica.post(last, &json!({"timeSeriesNames": ["auto~t"], "offset": 1, "limit": 1})).await;
    assert_eq!((page.as_array().unwrap().len(), numbers(&page, 0, "b")), (1, vec![4]));
    let (_, one) =
        replica.post(last, &json!({"endpointIDs": ["a"], "beforeDate": "2026-01-01T00:01:00Z"})).await;
    assert_eq!(numbers(&one, 0, "a"), [0]);
    let (status, body) = replica.post(last, &json!({"beforeDate": "soon"})).await;
    assert!(status == 400 && body["message"].as_str().unwrap().contains("beforeDate"), "{body}");
    assert_eq!(replica.get(&format!("{last}?endpointId=a")).await.0, 400);
    replica.platform.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_for_too_many_points_names_the_limit() {
    let (bed, replica) = filled().await;
    let samples: Vec<Value> = (0..13).map(|t| json!({ "t": t })).collect();
    bed.store("app", "c", &samples).await;
    let path = "applications/app/time-series/data?timeSeriesName=auto~t&endpointId=c&fromDate=now-1h&toDate=now%2B1h";
    let (status, body) = replica.get(path).await;
    assert!(
        status == 400 && body["message"].as_str().unwrap().contains("epts.points_per_query_max"),
        "{body}"
    );
    assert_eq!(numbers(&replica.read(&format!("{path}&limit=12")).await, 0, "c").len(), 12);
    replica.platform.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_sees_anothers_data() {
    let (_bed, replica) = filled().await;
    for path in [
        "applications/app/time-series/data?timeSeriesName=auto~t&fromDate=2026-01-01&toDate=now",
        "applications/app/time-series/last?timeSeriesName=auto~t",
        "applications/app/unextracted-samples?fromDate=2026-01-01&toDate=now",
        "applications/app/books",
        "time-series/config?applicationNames=app",
    ] {
        assert_eq!(replica.get_as_other(path).await.0, 404, "{path}");
    }
    assert_eq!(replica.get_as_other("time-series/config").await, (200, json!({})));
    replica.platform.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_config_shows_configured_and_seen_series() {
    let (_bed, replica) = filled().await;
    let app =
        json!([{"name": "position", "values": ["lat", "lon"]}, {"name": "auto~t", "values": ["value"]}]);
    assert_eq!(replica.read("time-series/config").await, json!({ "app": app }));
    let both = replica.read("time-series/config?applicationNames=app,empty").await;
    assert_eq!(both, json!({"app": app, "empty": []}));
    assert_eq!(replica.get("time-series/config?applicationNames=none").await.0, 404);
    replica.platform.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn points_are_stored_over_rest() {
    let (bed, replica) = filled().await;
    let mut events = bed
        .client
        .subscribe("kaa.v1.events.epts.endpoint.data-collection.data-points-received.level")
        .await
        .unwrap();
    bed.client.flush().await.unwrap();
    let path = "app-versions/app-v1/time-series/data";
    let body = json!({
        "a": {"level": [{"timestamp": "2026-01-01T00:00:00.5Z", "values": {"value": 7}},
                        {"timestamp": 1_767_225_601_000_i64, "values": {"text": "x", "none": null}}]},
        "d": {"level": [{"values": {"value": true}}]}});
    assert_eq!(replica.put(path, &body).await.0, 204);
    let points = replica.points("app", "a", "level").await;
    assert_eq!(
        points,
        [
            ("2026-01-01T00:00:00.500Z".to_owned(), json!({"value": 7})),
            ("2026-01-01T00:00:01Z".to_owned(), json!({"text": "x", "none": null})),
        ]
    );
    assert_eq!(replica.points("app", "d", "level").await.len(), 1);
    for _ in 0..2 {
        let event = tokio::time::timeout(crate::bed::PATIENCE, futures::StreamExt::next(&mut events)).await;
        assert!(event.unwrap().is_some());
    }
    assert_eq!(replica.read("time-series/config").await["app"][2], json!({"name": "level", "values": null}));

    let point = |point: Value| json!({"a": {"level": [point]}});
    for (body, word) in [
        (point(json!({"values": {}})), "values is empty"),
        (point(json!({"values": {"a": {"b": 1}}})), "a must be a number"),
        (point(json!({"values": {"time": 1}})), "reserved"),
        (point(json!({"values": {"a": "\u{0}"}})), "U+0000"),
        (point(json!({"timestamp": "soon", "values": {"a": 1}})), "timestamp"),
        (point(json!({"timestamp": "2100-01-01", "values": {"a": 1}})), "in the future"),
        (json!({"a": {"~unextracted": [{"values": {"a": 1}}]}}), "reserved"),
        (json!({"a b": {}}), "endpoint id"),
    ] {
        let (status, answer) = replica.put(path, &body).await;
        assert!(
            status == 400 && answer["message"].as_str().unwrap().contains(word),
            "{body}: {status} {answer}"
        );
    }
    assert_eq!(replica.put("app-versions/none-v1/time-series/data", &body).await.0, 404);
    replica.platform.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_interface_describes_itself() {
    let bed = Bed::new(Register::new()).await;
    let replica = bed.start(&[]).await;
    let document = replica.read("openapi.json").await;
    let paths: Vec<&str> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        paths,
        [
            "/epts/api/v1/app-versions/{appVersionName}/time-series/data",
            "/epts/api/v1/applications/{applicationName}/books",
            "/epts/api/v1/applications/{applicationName}/time-series/data",
            "/epts/api/v1/applications/{applicationName}/time-series/last",
            "/epts/api/v1/applications/{applicationName}/unextracted-samples",
            "/epts/api/v1/time-series/config",
        ]
    );
    assert!(
        document["paths"]["/epts/api/v1/applications/{applicationName}/time-series/last"]["post"].is_object()
    );
    replica.platform.stop().await.unwrap();
}
