//! Commands for many endpoints over REST.

use std::collections::{BTreeMap, BTreeSet};

use ism::efmp::EP_LIST_BY_FILTER_REQUEST;
use ism::epmmp::EP_APP_VERSION_GET_REQUEST;
use ism::{
    AppVersionsByEndpointsRequest, AppVersionsByEndpointsResponse, EndpointListByFilterRequest,
    EndpointListByFilterResponse,
};
use reqwest::Method;
use runtime::now_ms;
use serde_json::{Value, json};
use testbed::{PATIENCE, Responder, Rest};
use testkit::eventually;

use crate::bed::{Bed, application_of};

const COMMANDS: &str = "/cex/api/v1/endpoints/commands";

/// The endpoint register as far as only batches ask it: filters are named for what they match.
async fn register(bed: &Bed) -> [Responder; 2] {
    let client = &bed.testbed.client;
    let (filters, versions) = tokio::join!(
        Responder::start(client, EP_LIST_BY_FILTER_REQUEST.at("epr"), matching),
        Responder::start(client, EP_APP_VERSION_GET_REQUEST.at("epr"), versions),
    );
    [filters, versions]
}

fn matching(request: EndpointListByFilterRequest) -> Option<EndpointListByFilterResponse> {
    let (status_code, endpoints) = match request.filter_id.as_str() {
        "three" => (200, vec!["m1".to_owned(), "m2".to_owned(), "m3".to_owned()]),
        "many" => (200, (0..10_000).map(|number| format!("m{number:05}")).collect()),
        "nothing" => (200, Vec::new()),
        "foreign" => (200, vec!["f1".to_owned()]),
        "mixed" => (200, vec!["e1".to_owned(), "m1".to_owned()]),
        "pending" => (409, Vec::new()),
        "vast" => (413, Vec::new()),
        "broken" => (503, Vec::new()),
        _ => (404, Vec::new()),
    };
    Some(EndpointListByFilterResponse {
        correlation_id: request.correlation_id,
        timestamp: now_ms(),
        timeout: 0,
        filter_id: request.filter_id,
        app_versions_to_endpoints: by_version(&endpoints),
        status_code,
        reason_phrase: (status_code != 200).then(|| "as the test wants it".to_owned()),
    })
}

/// All endpoints exist but those whose ids end with `x`.
fn versions(request: AppVersionsByEndpointsRequest) -> Option<AppVersionsByEndpointsResponse> {
    Some(AppVersionsByEndpointsResponse {
        correlation_id: request.correlation_id,
        timestamp: now_ms(),
        timeout: 0,
        app_versions_to_endpoints: by_version(&request.endpoint_ids),
        endpoint_ids: request.endpoint_ids,
        status_code: 200,
        reason_phrase: None,
    })
}

fn by_version(endpoints: &[String]) -> BTreeMap<String, Vec<String>> {
    let mut versions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for endpoint in endpoints.iter().filter(|endpoint| !endpoint.ends_with('x')) {
        let (_, application) = application_of(endpoint).unwrap();
        versions.entry(format!("{application}-v1")).or_default().push(endpoint.clone());
    }
    versions
}

fn by_filter(filter: &str, more: &str) -> String {
    format!("{COMMANDS}/reboot/batch/by-filter?filterId={filter}&commandTtl=600000{more}")
}

fn task_path(task_id: &str) -> String {
    format!("{COMMANDS}/batch/tasks/{task_id}?appName=meter")
}

/// Makes a batch; answers its id.
async fn created(rest: &Rest, path: &str, body: &Value) -> String {
    let answer = rest.post(path, body).await;
    let location = answer.location.clone();
    let task_id = answer.expect(202)["taskId"].as_str().unwrap().to_owned();
    assert_eq!(location.unwrap(), task_path(&task_id));
    task_id
}

/// Waits until a batch is as wanted; answers it.
async fn task(rest: &Rest, task_id: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let path = task_path(task_id);
    let brief = format!("{path}&limit=0");
    // Ten thousand commands take a while on a machine that is busy.
    eventually("the batch as expected", 3 * PATIENCE, async || {
        let task = rest.get(&brief).await.expect(200);
        let sum: i64 = ["pendingCount", "executedCount", "expiredCount"]
            .into_iter()
            .map(|count| task[count].as_i64().unwrap())
            .sum();
        assert_eq!(sum, task["total"], "{task}");
        if !is_so(&task) {
            return None;
        }
        let whole = rest.get(&path).await.expect(200);
        for (list, count) in
            [("pending", "pendingCount"), ("executed", "executedCount"), ("expired", "expiredCount")]
        {
            assert_eq!(json!(whole[list].as_array().unwrap().len()), whole[count], "{list}");
        }
        Some(whole).filter(&is_so)
    })
    .await
}

fn endpoints(entries: &Value) -> Vec<&str> {
    entries.as_array().unwrap().iter().map(|entry| entry["endpointId"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_match_a_filter_are_commanded_and_accounted_for() {
    let bed = Bed::start(&[]).await;
    let _register = register(&bed).await;
    let (_gateway, mut pushes) = bed.gateway(|_| Some(200)).await;
    let acme = bed.acme();
    let task_id = created(&acme, &by_filter("three", "&ratePerSecond=100"), &json!({"delay": 1})).await;
    let mut pushed = BTreeSet::new();
    for _ in 0..3 {
        let push = tokio::time::timeout(PATIENCE, pushes.recv()).await.unwrap().unwrap();
        assert_eq!(push.payload, json!([{"id": 1, "payload": {"delay": 1}}]));
        pushed.insert(push.endpoint_id);
    }
    assert_eq!(pushed, BTreeSet::from(["m1", "m2", "m3"].map(str::to_owned)));
    bed.report("m1", "reboot", json!({"id": 1, "statusCode": 200, "payload": "done"})).await;
    bed.report("m3", "reboot", json!({"id": 1, "statusCode": 500})).await;
    let found = task(&acme, &task_id, |task| task["executedCount"] == 2).await;
    assert_eq!(endpoints(&found["executed"]), ["m1", "m3"]);
    assert_eq!(endpoints(&found["pending"]), ["m2"]);
    assert_eq!(
        found["executed"][0],
        json!({"endpointId": "m1", "commandId": 1, "deliveryState": "EXECUTED"})
    );
    for (field, value) in [
        ("state", json!("RUNNING")),
        ("filterId", json!("three")),
        ("commandType", json!("reboot")),
        ("requestPayload", json!({"delay": 1})),
        ("ratePerSecond", json!(100)),
        ("abortFailedPercent", Value::Null),
        ("expired", json!([])),
        ("endedAt", Value::Null),
    ] {
        assert_eq!(found[field], value, "{field}");
    }
    bed.report("m2", "reboot", json!({"id": 1, "statusCode": 200, "payload": [2]})).await;
    let found = task(&acme, &task_id, |task| task["state"] == "COMPLETED").await;
    assert_eq!((&found["executedCount"], found["endedAt"].is_string()), (&json!(3), true));

    let results = format!("{COMMANDS}/batch/tasks/{task_id}/results?appName=meter&offset=1&limit=1");
    let page = acme.get(&results).await.expect(200);
    assert_eq!((&page["totalElements"], page["content"].as_array().unwrap().len()), (&json!(3), 1));
    assert_eq!(page["content"][0]["endpointId"], "m2");
    assert_eq!(page["content"][0]["responsePayload"], json!([2]));
    assert!(acme.delete(&task_path(&task_id)).await.refused(409).contains("completed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_may_be_listed() {
    let bed = Bed::start(&[("cex.batch_endpoints_max", "3")]).await;
    let _register = register(&bed).await;
    let acme = bed.acme();
    let path = format!("{COMMANDS}/reboot/batch/by-endpoints?commandTtl=600000");
    let body =
        json!({"payload": "now", "payloadContentType": "text/plain", "endpointIds": ["m2", "m1", "m2"]});
    let task_id = created(&acme, &path, &body).await;
    let found = task(&acme, &task_id, |task| task["notInvokedCount"] == 0).await;
    assert_eq!((&found["total"], &found["filterId"]), (&json!(2), &Value::Null));
    assert_eq!(endpoints(&found["pending"]), ["m1", "m2"]);
    assert_eq!(found["requestPayload"], "now");
    let refused = async |body: Value, status: u16| acme.post(&path, &body).await.refused(status);
    let missing = refused(json!({"endpointIds": ["m1", "m9x", "f1"]}), 404).await;
    assert!(missing.contains("2 of the endpoints do not exist: m9x, f1"), "{missing}");
    assert!(refused(json!({"endpointIds": ["m1", "e1"]}), 400).await.contains("(elsewhere, meter)"));
    assert!(refused(json!({"endpointIds": []}), 400).await.contains("at least one"));
    let many = refused(json!({"endpointIds": ["m1", "m2", "m3", "m4"]}), 400).await;
    assert!(many.contains("cex.batch_endpoints_max"), "{many}");
    let typed = json!({"payload": 1, "payloadContentType": "text/plain", "endpointIds": ["m1"]});
    assert!(refused(typed, 400).await.contains("payload must be a string"));
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_are_those_of_the_tenant_and_ready() {
    let bed = Bed::start(&[]).await;
    let _register = register(&bed).await;
    let acme = bed.acme();
    for (filter, status, reason) in [
        ("unknown", 404, "no such filter"),
        ("nothing", 404, "no such filter"),
        ("foreign", 404, "no such filter"),
        ("mixed", 400, "several applications"),
        ("pending", 409, "as the test wants it"),
        ("vast", 400, "too many"),
        ("broken", 503, "try again"),
        ("", 400, "filterId is missing"),
        ("three&ratePerSecond=0", 400, "ratePerSecond"),
        ("three&abortFailedPercent=100", 400, "abortFailedPercent"),
        ("three&awaitTimeout=x", 400, "awaitTimeout"),
    ] {
        let message = acme.post(&by_filter(filter, ""), &json!({})).await.refused(status);
        assert!(message.contains(reason), "{filter}: {message}");
    }
    let message = bed.other().post(&by_filter("three", ""), &json!({})).await.refused(404);
    assert!(message.contains("no such filter"), "{message}");
    let tasks = acme.get(&format!("{COMMANDS}/batch/tasks?appName=meter")).await.expect(200);
    assert_eq!(tasks, json!({"totalElements": 0, "content": []}));
    for odd in ["%00", "a%20b"] {
        acme.get(&format!("{COMMANDS}/batch/tasks?appName=meter&filterId={odd}")).await.refused(400);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_are_listed_and_belong_to_their_tenant() {
    let bed = Bed::start(&[]).await;
    let _register = register(&bed).await;
    let (acme, other) = (bed.acme(), bed.other());
    let one = created(&acme, &by_filter("three", ""), &json!(1)).await;
    let old_path = format!("{COMMANDS}/zero/batch?filterId=three&commandTtl=600000");
    let two = created(&acme, &old_path, &json!(2)).await;
    let list = async |query: &str| {
        let tasks = acme.get(&format!("{COMMANDS}/batch/tasks?appName=meter{query}")).await.expect(200);
        let ids = tasks["content"].as_array().unwrap().iter();
        (tasks["totalElements"].as_i64().unwrap(), ids.map(|task| task["taskId"].clone()).collect::<Vec<_>>())
    };
    assert_eq!(list("").await, (2, vec![json!(two), json!(one)]));
    assert_eq!(list("&sortBy=commandType&sortOrder=ASC&limit=1").await, (2, vec![json!(one)]));
    assert_eq!(list("&sortBy=commandType&sortOrder=ASC&offset=1").await, (2, vec![json!(two)]));
    assert_eq!(list("&commandType=zero&filterId=three").await, (1, vec![json!(two)]));
    assert_eq!(list("&filterId=four").await, (0, vec![]));
    for wrong in ["&sortBy=age", "&sortOrder=up", "&limit=101"] {
        acme.get(&format!("{COMMANDS}/batch/tasks?appName=meter{wrong}")).await.refused(400);
    }
    assert!(acme.get(&format!("{COMMANDS}/batch/tasks")).await.refused(400).contains("appName"));
    let elsewhere = task_path(&one).replace("meter", "elsewhere");
    acme.get(&elsewhere).await.refused(404);
    acme.delete(&elsewhere).await.refused(404);
    for application in ["meter", "foreign"] {
        let path = task_path(&one).replace("meter", application);
        other.get(&path).await.refused(404);
        other.delete(&path).await.refused(404);
        other.get(&path.replace("?", "/results?")).await.refused(404);
    }
    assert_eq!(task(&acme, &one, |_| true).await["state"], "RUNNING");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_is_about_the_first_batch() {
    let bed = Bed::start(&[("cex.batches_open_max", "1")]).await;
    let register = register(&bed).await;
    let acme = bed.acme();
    let post = async |filter: &str| {
        let headers = [("idempotency-key", "campaign-1")];
        acme.call_with(Method::POST, &by_filter(filter, ""), &headers, Some(&json!(1))).await
    };
    let first = post("three").await.expect(202);
    // The register need not be asked for it again, and no more batches may be open.
    drop(register);
    let again = post("three").await;
    assert_eq!(again.headers.get("idempotency-replayed").unwrap(), "true");
    assert_eq!(again.expect(202), first);
    assert!(post("many").await.refused(409).contains("Idempotency-Key"));
    let _register = self::register(&bed).await;
    let message = acme.post(&by_filter("three", ""), &json!(1)).await.refused(429);
    assert!(message.contains("cex.batches_open_max"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_endpoints_are_commanded_and_cancelled() {
    let bed = Bed::start(&[]).await;
    let _register = register(&bed).await;
    let acme = bed.acme();
    let task_id = created(&acme, &by_filter("many", ""), &json!({"delay": 1})).await;
    let found = task(&acme, &task_id, |task| task["notInvokedCount"] == 0).await;
    assert_eq!(found["pending"].as_array().unwrap().len(), 10_000);
    let page = acme.get(&format!("{}&offset=9999", task_path(&task_id))).await.expect(200);
    assert_eq!(endpoints(&page["pending"]), ["m09999"]);
    // One device has its command, and goes on.
    let (status, _, polled) = bed.say("m00007", "/command/reboot", &json!({})).await;
    assert_eq!((status, polled), (200, Some(json!([{"id": 1, "payload": {"delay": 1}}]))));
    bed.report("m00007", "reboot", json!({"id": 1, "statusCode": 200})).await;
    let cancelled = acme.delete(&task_path(&task_id)).await.expect(202);
    assert_eq!(cancelled["state"], "CANCELLED");
    let found = task(&acme, &task_id, |task| task["endedAt"].is_string()).await;
    assert_eq!((&found["executedCount"], &found["expiredCount"]), (&json!(1), &json!(9_999)));
    assert_eq!(found["expired"][0]["deliveryState"], "CANCELLED");
    assert_eq!(acme.delete(&task_path(&task_id)).await.expect(202)["state"], "CANCELLED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_spreads_the_commands_and_cancelling_stops_them() {
    let bed = Bed::start(&[]).await;
    let _register = register(&bed).await;
    let acme = bed.acme();
    let task_id = created(&acme, &by_filter("many", "&ratePerSecond=4"), &json!(1)).await;
    task(&acme, &task_id, |task| task["notInvokedCount"].as_i64().is_some_and(|left| left < 10_000)).await;
    let cancelled = acme.delete(&task_path(&task_id)).await.expect(202);
    let left = cancelled["notInvokedCount"].as_i64().unwrap();
    assert!(left > 9_000, "{cancelled}");
    let found = task(&acme, &task_id, |task| task["endedAt"].is_string()).await;
    assert_eq!((&found["notInvokedCount"], &found["expiredCount"]), (&json!(left), &json!(10_000)));
    let dropped = found["expired"].as_array().unwrap().last().unwrap();
    let expected = json!({"endpointId": "m09999", "commandId": null, "deliveryState": null,
        "reason": "the batch was cancelled"});
    assert_eq!(dropped, &expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_tasks_holds_no_more_than_fits() {
    let bed = Bed::start(&[("cex.payload_bytes_max", "524288")]).await;
    let _register = register(&bed).await;
    let acme = bed.acme();
    let path = format!("{COMMANDS}/load/batch/by-endpoints?commandTtl=600000");
    let body = json!({"payload": "x".repeat(520_000), "payloadContentType": "text/plain; charset=utf-8",
        "endpointIds": ["m1"]});
    for _ in 0..33 {
        created(&acme, &path, &body).await;
    }
    let list = format!("{COMMANDS}/batch/tasks?appName=meter&limit=");
    let message = acme.get(&format!("{list}100")).await.refused(400);
    assert!(message.contains("16777216 bytes"), "{message}");
    let some = acme.get(&format!("{list}3")).await.expect(200);
    assert_eq!((&some["totalElements"], some["content"].as_array().unwrap().len()), (&json!(33), 3));
}
