//! Commands over REST.

use std::collections::HashMap;

use reqwest::Method;
use serde_json::{Value, json};
use testbed::{Answer, PATIENCE, Rest};
use testkit::eventually;

use crate::bed::Bed;

/// The path of commands of a type.
fn path(endpoint: &str, command_type: &str) -> String {
    format!("/cex/api/v1/endpoints/{endpoint}/commands/{command_type}")
}

/// Invokes without waiting; answers the descriptor.
async fn invoke(rest: &Rest, endpoint: &str, command_type: &str, payload: &Value) -> Value {
    let path = format!("{}?awaitTimeout=0&commandTtl=600000", path(endpoint, command_type));
    rest.post(&path, payload).await.expect(202)
}

fn header<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
    answer.headers.get(name).map(|value| value.to_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_comes_in_time_is_the_answer() {
    let bed = Bed::start(&[]).await;
    let (_gateway, mut pushes) = bed.gateway(|_| Some(200)).await;
    let acme = bed.acme();
    let invoking = tokio::spawn(async move {
        acme.post(&format!("{}?awaitTimeout=20", path("m1", "reboot")), &json!({"delay": 1.50})).await
    });
    let push = tokio::time::timeout(PATIENCE, pushes.recv()).await.unwrap().unwrap();
    assert_eq!((push.endpoint_id.as_str(), push.resource_path.as_str()), ("m1", "/command/reboot"));
    assert_eq!(push.payload, json!([{"id": 1, "payload": {"delay": 1.50}}]));
    let result = json!({"id": 1, "statusCode": 418, "reasonPhrase": "teapot", "payload": "done"});
    bed.report("m1", "reboot", result).await;
    let answer = invoking.await.unwrap();
    assert_eq!((answer.status, &answer.body), (200, &json!("done")));
    assert_eq!(header(&answer, "bandar-command-status-code"), Some("418"));
    assert_eq!(header(&answer, "idempotency-replayed"), None);
    let location = answer.location.unwrap();
    assert_eq!(location, format!("{}/1", path("m1", "reboot")));

    let acme = bed.acme();
    let command = acme.get(&location).await.expect(200);
    for (field, value) in [
        ("commandId", json!(1)),
        ("commandType", json!("reboot")),
        ("endpointId", json!("m1")),
        ("status", json!("EXECUTED")),
        ("deliveryState", json!("EXECUTED")),
        ("statusCode", json!(418)),
        ("reasonPhrase", json!("teapot")),
        ("requestPayload", json!({"delay": 1.50})),
        ("responsePayload", json!("done")),
        ("attempts", json!(1)),
    ] {
        assert_eq!(command[field], value, "{field} of {command}");
    }
    let states: Vec<&str> =
        command["transitions"].as_array().unwrap().iter().map(|one| one["state"].as_str().unwrap()).collect();
    assert_eq!((states.first(), states.last()), (Some(&"CREATED"), Some(&"EXECUTED")), "{command}");
    assert_eq!(acme.get(&format!("{}/last", path("m1", "reboot"))).await.expect(200), command);
    bed.testbed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn text_is_a_string_and_a_result_may_be_without_a_payload() {
    let bed = Bed::start(&[]).await;
    let (_gateway, mut pushes) = bed.gateway(|_| Some(200)).await;
    let acme = bed.acme();
    let invoking = tokio::spawn(async move {
        let headers = [("content-type", "text/plain; charset=utf-8")];
        let body = json!("on");
        acme.call_with(Method::POST, &path("m1", "say"), &headers, Some(&body)).await
    });
    let push = tokio::time::timeout(PATIENCE, pushes.recv()).await.unwrap().unwrap();
    // The test's client writes JSON whatever it calls it: as text it keeps its quotes.
    assert_eq!(push.payload, json!([{"id": 1, "payload": "\"on\""}]));
    bed.report("m1", "say", json!({"id": 1, "statusCode": 200})).await;
    let answer = invoking.await.unwrap();
    assert_eq!((answer.status, &answer.body), (200, &Value::Null));
    assert_eq!(header(&answer, "content-length"), Some("0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_result_the_answer_is_accepted_and_tells_where_to_look() {
    let bed = Bed::start(&[]).await;
    let acme = bed.acme();
    let answer = acme.post(&format!("{}?awaitTimeout=0", path("m1", "reboot")), &json!(null)).await;
    assert_eq!(answer.location.as_deref(), Some(format!("{}/1", path("m1", "reboot")).as_str()));
    let command = answer.expect(202);
    assert_eq!((&command["status"], &command["commandId"]), (&json!("PENDING"), &json!(1)), "{command}");
    // A command that ends while it is awaited has no result either.
    let once = format!("{}?awaitTimeout=20&commandTtl=0", path("m1", "wipe"));
    let command = acme.post(&once, &json!({})).await.expect(202);
    assert_eq!((&command["status"], &command["deliveryState"]), (&json!("EXPIRED"), &json!("UNDELIVERED")));
    let reason = command["transitions"].as_array().unwrap().last().unwrap()["reason"].clone();
    assert!(reason.is_string(), "{command}");
    let short = format!("{}?awaitTimeout=20&commandTtl=100", path("m1", "beep"));
    let command = acme.post(&short, &json!({})).await.expect(202);
    assert_eq!(command["deliveryState"], json!("EXPIRED"), "{command}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_is_about_the_same_command() {
    let bed = Bed::start(&[]).await;
    let acme = bed.acme();
    let again = async |key: &str, payload: &Value| {
        let path = format!("{}?awaitTimeout=0", path("m1", "reboot"));
        acme.call_with(Method::POST, &path, &[("idempotency-key", key)], Some(payload)).await
    };
    let first = again("order-7", &json!({"a": 1})).await;
    assert_eq!(header(&first, "idempotency-replayed"), None);
    let second = again("order-7", &json!({"a": 1})).await;
    assert_eq!((second.status, header(&second, "idempotency-replayed")), (202, Some("true")));
    assert_eq!((first.location, &first.body["commandId"]), (second.location, &second.body["commandId"]));
    let message = again("order-7", &json!({"a": 2})).await.refused(409);
    assert!(message.contains("Idempotency-Key"), "{message}");
    assert_eq!(again("order-8", &json!({"a": 1})).await.expect(202)["commandId"], json!(2));
    // The result is the answer of a repetition, also of one that does not wait.
    bed.report("m1", "reboot", json!({"id": 1, "statusCode": 200, "payload": {"ok": true}})).await;
    let third = again("order-7", &json!({"a": 1})).await;
    assert_eq!((third.status, &third.body), (200, &json!({"ok": true})));
    // Another tenant's keys are others.
    let path = format!("{}?awaitTimeout=0", path("f1", "reboot"));
    let headers = [("idempotency-key", "order-7")];
    let other = bed.other().call_with(Method::POST, &path, &headers, Some(&json!({"a": 2}))).await;
    assert_eq!((other.status, header(&other, "idempotency-replayed")), (202, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_invoked_is_refused_with_the_cause() {
    let bed =
        Bed::start(&[("cex.outstanding_per_endpoint_max", "2"), ("cex.payload_bytes_max", "100")]).await;
    let acme = bed.acme();
    let quick = |endpoint: &str| format!("{}?awaitTimeout=0", path(endpoint, "reboot"));
    for (query, reason) in [
        ("awaitTimeout=61", "cex.await_timeout_max_s"),
        ("awaitTimeout=soon", "awaitTimeout must be"),
        ("awaitTimeout=1&waitTimeout=2", "awaitTimeout and waitTimeout"),
        ("commandTtl=9999999999999", "cex.command_ttl_max_ms"),
        ("commandTtl=-1", "commandTtl must be"),
    ] {
        let message = acme.post(&format!("{}?{query}", path("m1", "reboot")), &json!({})).await.refused(400);
        assert!(message.contains(reason), "{message}");
    }
    acme.post(&format!("{}?awaitTimeout=0", path("m1", "re%2Fboot")), &json!({})).await.refused(400);
    let message = acme.post(&quick("m1"), &json!("x".repeat(100))).await.refused(400);
    assert!(message.contains("cex.payload_bytes_max"), "{message}");
    let xml = [("content-type", "application/xml")];
    acme.call_with(Method::POST, &quick("m1"), &xml, Some(&json!(1))).await.refused(415);
    let key = [("idempotency-key", "has a space")];
    acme.call_with(Method::POST, &quick("m1"), &key, Some(&json!(1))).await.refused(400);
    for unknown in ["unknown", "f1"] {
        let message = acme.post(&quick(unknown), &json!({})).await.refused(404);
        assert!(message.contains(unknown), "{message}");
    }
    for _ in 0..2 {
        acme.post(&quick("m1"), &json!({})).await.expect(202);
    }
    let message = acme.post(&quick("m1"), &json!({})).await.refused(429);
    assert!(message.contains("cex.outstanding_per_endpoint_max"), "{message}");
    acme.post(&quick("m2"), &json!({})).await.expect(202);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_cancelled_once_and_what_has_ended_is_not() {
    let bed = Bed::start(&[]).await;
    let (acme, other) = (bed.acme(), bed.other());
    let one = format!("{}/1", path("m1", "reboot"));
    acme.delete(&one).await.refused(404);
    invoke(&acme, "m1", "reboot", &json!({})).await;
    other.delete(&one).await.refused(404);
    other.get(&one).await.refused(404);
    for _ in 0..2 {
        acme.delete(&one).await.expect(204);
    }
    let command = acme.get(&one).await.expect(200);
    assert_eq!((&command["status"], &command["deliveryState"]), (&json!("EXPIRED"), &json!("CANCELLED")));
    assert_eq!(bed.say("m1", "/command/reboot", &json!({})).await.2, Some(json!([])));

    invoke(&acme, "m1", "reboot", &json!({})).await;
    bed.report("m1", "reboot", json!({"id": 2, "statusCode": 200})).await;
    let message = acme.delete(&format!("{}/2", path("m1", "reboot"))).await.refused(409);
    assert!(message.contains("EXECUTED"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_waits_for_the_push_that_is_under_way() {
    let bed = Bed::start(&[("cex.push_timeout_ms", "3000")]).await;
    let (_gateway, mut pushes) = bed.gateway(|_| None).await;
    let acme = bed.acme();
    invoke(&acme, "m1", "reboot", &json!({})).await;
    tokio::time::timeout(PATIENCE, pushes.recv()).await.unwrap().unwrap();
    // Whether the device has it is not known before the push has ended.
    acme.delete(&format!("{}/1", path("m1", "reboot"))).await.expect(204);
    let command = acme.get(&format!("{}/1", path("m1", "reboot"))).await.expect(200);
    assert_eq!((&command["deliveryState"], &command["attempts"]), (&json!("CANCELLED"), &json!(1)));

    // A result that comes meanwhile says that it was carried out.
    invoke(&acme, "m2", "reboot", &json!({})).await;
    tokio::time::timeout(PATIENCE, pushes.recv()).await.unwrap().unwrap();
    let cancelling = {
        let acme = bed.acme();
        tokio::spawn(async move { acme.delete(&format!("{}/1", path("m2", "reboot"))).await })
    };
    bed.report("m2", "reboot", json!({"id": 1, "statusCode": 200})).await;
    let answer = cancelling.await.unwrap();
    let command = acme.get(&format!("{}/1", path("m2", "reboot"))).await.expect(200);
    let expected = if answer.status == 409 { "EXECUTED" } else { "CANCELLED" };
    assert_eq!(command["deliveryState"], json!(expected), "{} {}", answer.status, answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_are_found_by_endpoint_by_type_and_in_the_history() {
    let bed = Bed::start(&[]).await;
    let (acme, other) = (bed.acme(), bed.other());
    for (endpoint, command_type, count) in [("m1", "reboot", 3), ("m1", "zero", 1), ("m2", "reboot", 1)] {
        for n in 1..=count {
            invoke(&acme, endpoint, command_type, &json!({"n": n})).await;
        }
    }
    invoke(&acme, "e1", "reboot", &json!({})).await;
    invoke(&other, "f1", "reboot", &json!({})).await;
    bed.report("m1", "reboot", json!({"id": 1, "statusCode": 200, "payload": [1]})).await;

    let counts = async |rest: &Rest, query: &str| {
        let found = rest.get(&format!("/cex/api/v1/endpoints/commands?{query}")).await.expect(200);
        let count = |one: &Value| {
            let commands = one["commands"].as_array().unwrap().len();
            (one["endpointId"].as_str().unwrap().to_owned(), commands)
        };
        found.as_array().unwrap().iter().map(count).collect::<HashMap<_, _>>()
    };
    let of = |pairs: &[(&str, usize)]| -> HashMap<String, usize> {
        pairs.iter().map(|(endpoint, count)| ((*endpoint).to_owned(), *count)).collect()
    };
    let all = counts(&acme, "endpointId=m1,m2&endpointId=m1&endpointId=f1").await;
    assert_eq!(all, of(&[("m1", 4), ("m2", 1), ("f1", 0)]));
    assert_eq!(counts(&acme, "endpointId=m1&commandTypes=zero").await, of(&[("m1", 1)]));
    assert_eq!(counts(&acme, "endpointId=m1&limit=2").await, of(&[("m1", 2)]));
    assert_eq!(counts(&other, "endpointId=m1").await, of(&[("m1", 0)]));
    for query in ["", "endpointId=m1&limit=0", "endpointId=m1&limit=501"] {
        acme.get(&format!("/cex/api/v1/endpoints/commands?{query}")).await.refused(400);
    }

    let wanted = json!({"endpointIds": ["m1", "m2", "f1"], "commandTypes": ["reboot"]});
    let last = acme.post("/cex/api/v1/endpoints/commands/last", &wanted).await.expect(200);
    let ids: Vec<&Value> =
        last.as_array().unwrap().iter().map(|one| &one["commands"][0]["commandId"]).collect();
    assert_eq!(ids, [&json!(3), &json!(1), &Value::Null], "{last}");
    acme.post("/cex/api/v1/endpoints/commands/last", &json!({"endpointIds": []})).await.refused(400);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_of_an_application_comes_in_pages() {
    let bed = Bed::start(&[]).await;
    let (acme, other) = (bed.acme(), bed.other());
    for n in 1..=5 {
        invoke(&acme, "m1", "reboot", &json!({"n": n})).await;
    }
    invoke(&acme, "m2", "zero", &json!({})).await;
    invoke(&acme, "e1", "reboot", &json!({})).await;
    bed.report("m1", "reboot", json!({"id": 2, "statusCode": 200})).await;
    acme.delete(&format!("{}/3", path("m1", "reboot"))).await.expect(204);

    let history = async |rest: &Rest, query: &str| {
        rest.get(&format!("/cex/api/v1/endpoints/commands/meter?{query}")).await.expect(200)
    };
    let ids = |page: &Value| -> Vec<i64> {
        page["content"].as_array().unwrap().iter().map(|one| one["commandId"].as_i64().unwrap()).collect()
    };
    let page = history(&acme, "page=1&size=2&commandTypes=reboot").await;
    assert_eq!(ids(&page), [3, 2], "newest first");
    for (field, value) in [
        ("totalElements", json!(5)),
        ("totalPages", json!(3)),
        ("number", json!(1)),
        ("size", json!(2)),
        ("numberOfElements", json!(2)),
        ("first", json!(false)),
        ("last", json!(false)),
        ("empty", json!(false)),
    ] {
        assert_eq!(page[field], value, "{field}");
    }
    assert_eq!(page["pageable"]["offset"], json!(2));
    assert_eq!(ids(&history(&acme, "sort=createdAt,asc&endpointId=m1").await), [1, 2, 3, 4, 5]);
    assert_eq!(ids(&history(&acme, "status=EXECUTED").await), [2]);
    assert_eq!(ids(&history(&acme, "status=expired").await), [3]);
    assert_eq!(history(&acme, "status=PENDING").await["totalElements"], json!(4));
    assert_eq!(history(&acme, "from=2100-01-01T00:00:00Z").await["totalElements"], json!(0));
    assert_eq!(history(&acme, "to=2100-01-01").await["totalElements"], json!(6));
    for (query, reason) in [
        ("size=501", "size must be"),
        ("page=1000001&size=1", "page times size"),
        ("sort=status", "createdAt"),
        ("status=LOST", "status must be"),
        ("from=soon", "from is not a moment"),
    ] {
        let message = acme.get(&format!("/cex/api/v1/endpoints/commands/meter?{query}")).await.refused(400);
        assert!(message.contains(reason), "{message}");
    }
    other.get("/cex/api/v1/endpoints/commands/meter").await.refused(404);
    acme.get("/cex/api/v1/endpoints/commands/nothing").await.refused(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_the_waiting_of_callers() {
    let bed = Bed::start(&[]).await;
    let acme = bed.acme();
    let waiting = tokio::spawn(async move {
        acme.post(&format!("{}?awaitTimeout=60", path("m1", "reboot")), &json!({})).await
    });
    let acme = bed.acme();
    eventually("the command is invoked", PATIENCE, async || {
        (acme.get(&format!("{}/1", path("m1", "reboot"))).await.status == 200).then_some(())
    })
    .await;
    bed.testbed.stop().await;
    assert_eq!(waiting.await.unwrap().expect(202)["status"], json!("PENDING"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_holds_no_more_than_fits() {
    let bed = Bed::start(&[("cex.payload_bytes_max", "524288")]).await;
    let acme = bed.acme();
    let large = json!("x".repeat(520_000));
    for _ in 0..33 {
        invoke(&acme, "m1", "load", &large).await;
    }
    let history = "/cex/api/v1/endpoints/commands/meter?size=";
    let list = "/cex/api/v1/endpoints/commands?endpointId=m1&limit=";
    for path in [history, list] {
        let message = acme.get(&format!("{path}40")).await.refused(400);
        assert!(message.contains("16777216 bytes"), "{message}");
        // The connection to the database serves on.
        for _ in 0..5 {
            acme.get(&format!("{path}2")).await.expect(200);
        }
    }
}
