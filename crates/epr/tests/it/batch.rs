//! Orders to register many endpoints.

use serde_json::{Value, json};
use testbed::{ACME, OTHER, Testbed};

use crate::{Cm, ENDPOINTS, PlayedCm, execute, number, register, start};

async fn order(bed: &Testbed, endpoints: Value) -> String {
    let body = json!({"appVersion": {"name": "app-v1"}, "endpoints": endpoints});
    let taken = bed.rest(ACME).post(&format!("{ENDPOINTS}/batch"), &body).await;
    let location = taken.location.clone().unwrap();
    let task_id = taken.expect(202)["taskId"].as_str().unwrap().to_owned();
    assert_eq!(location, status_path(&task_id));
    location
}

fn status_path(task_id: &str) -> String {
    format!("{ENDPOINTS}/batch/status?appName=app&taskId={task_id}")
}

async fn finished(bed: &Testbed, path: &str) -> Value {
    let look = async || {
        let status = bed.rest(ACME).get(path).await.expect(200);
        (status["pendingCount"] == 0).then_some(status)
    };
    testkit::eventually("the end of the task", testbed::PATIENCE, look).await
}

#[tokio::test]
async fn each_endpoint_of_an_order_is_registered_or_its_failure_told() {
    let (bed, _tekton) = start(&[("epr.sweep_interval_ms", "50")]).await;
    let cm = PlayedCm::start(&bed, Cm::Makes).await;
    register(&bed, "app-v1", "taken", json!({})).await;
    let mut endpoints = vec![
        json!({"endpointId": "one", "endpointToken": "wish", "metadata": {"a": 1}}),
        json!({"endpointId": "taken", "endpointToken": "lost"}),
        json!({}),
    ];
    endpoints.extend((0..40).map(|number| json!({"endpointId": format!("more{number}")})));
    let path = order(&bed, Value::from(endpoints)).await;
    let status = finished(&bed, &path).await;
    assert_eq!((&status["createdCount"], &status["failedCount"]), (&json!(42), &json!(1)));
    let created = status["created"].as_array().unwrap();
    assert_eq!(created[0], json!({"endpointId": "one", "endpointToken": "wish", "metadata": {"a": 1}}));
    assert!(created[1]["endpointToken"].as_str().unwrap().starts_with("token"));
    assert_eq!(created[1]["endpointId"].as_str().unwrap().len(), 36);
    let failed = &status["failed"][0];
    assert_eq!((&failed["endpointId"], &failed["endpointToken"]), (&json!("taken"), &json!("lost")));
    assert_eq!(failed["status"], "FAILED");
    assert!(failed["statusReason"].as_str().unwrap().contains("taken"));
    assert_eq!(bed.rest(ACME).get(ENDPOINTS).await.expect(200)["totalElements"], 43);
    assert_eq!(cm.asked.lock().unwrap().len(), 43);
    // Whoever has the database alone has no token.
    assert_eq!(
        number(&bed, "SELECT count(*) FROM epr.batch_items WHERE position('wish'::bytea IN token) > 0").await,
        0
    );
    bed.rest(OTHER).get(&path).await.refused(404);
    bed.rest(ACME).get(&path.replace("appName=app", "appName=more")).await.refused(404);
    bed.stop().await;
}

#[tokio::test]
async fn an_order_waits_for_what_is_away_and_registers_nothing_twice() {
    let settings =
        [("epr.sweep_interval_ms", "50"), ("epr.token_timeout_ms", "200"), ("epr.batch_tasks_max", "1")];
    let (bed, _tekton) = start(&settings).await;
    let cm = PlayedCm::start(&bed, Cm::Silent).await;
    let path = order(&bed, json!([{"endpointId": "a"}, {"endpointId": "b"}, {"endpointId": "c"}])).await;
    let asked = async || (cm.asked.lock().unwrap().len() >= 3).then_some(());
    testkit::eventually("the first attempt", testbed::PATIENCE, asked).await;
    assert_eq!(bed.rest(ACME).get(&path).await.expect(200)["pendingCount"], 3);
    let body = json!({"appVersion": {"name": "app-v1"}, "endpoints": [{}]});
    let message = bed.rest(ACME).post(&format!("{ENDPOINTS}/batch"), &body).await.refused(429);
    assert!(message.contains("epr.batch_tasks_max"), "{message}");
    cm.now(Cm::Makes);
    assert_eq!(finished(&bed, &path).await["createdCount"], 3);
    // As if the process had died while it worked: it goes on, and finds that all is done.
    execute(&bed, "UPDATE epr.batch_tasks SET finished_at = NULL, leased_until = '-infinity'").await;
    let done = "SELECT count(*) FROM epr.batch_tasks WHERE finished_at IS NOT NULL";
    testkit::eventually("the end", testbed::PATIENCE, async || (number(&bed, done).await == 1).then_some(()))
        .await;
    assert_eq!(number(&bed, "SELECT count(*) FROM epr.endpoints").await, 3);
    // After their time, tasks and their tokens are forgotten.
    execute(&bed, "UPDATE epr.batch_tasks SET created_at = now() - interval '25 hours'").await;
    let items = "SELECT count(*) FROM epr.batch_items";
    testkit::eventually("oblivion", testbed::PATIENCE, async || {
        (number(&bed, items).await == 0).then_some(())
    })
    .await;
    bed.rest(ACME).get(&path).await.refused(404);
    bed.stop().await;
}

#[tokio::test]
async fn tokens_sealed_under_a_key_that_is_gone_fail_and_the_rest_is_registered() {
    let (bed, _tekton) = start(&[("epr.sweep_interval_ms", "50")]).await;
    let _cm = PlayedCm::start(&bed, Cm::Makes).await;
    execute(
        &bed,
        "WITH task AS (
             INSERT INTO epr.batch_tasks (task_id, tenant_id, application_name, app_version_name, key_id, created_at)
             VALUES ('00000000-0000-4000-8000-000000000001', 'acme', 'app', 'app-v1', 'another',
                 now() - interval '2 minutes')
             RETURNING task_id
         )
         INSERT INTO epr.batch_items (task_id, position, endpoint_id, token, metadata)
         SELECT task_id, position, endpoint_id, token, '{}' FROM task, (VALUES
             (1, 'a', '\\x00112233445566778899aabbccddeeff'::bytea), (2, 'b', NULL)
         ) AS item (position, endpoint_id, token)",
    )
    .await;
    let status = finished(&bed, &status_path("00000000-0000-4000-8000-000000000001")).await;
    assert_eq!((&status["createdCount"], &status["failedCount"]), (&json!(1), &json!(1)));
    assert!(status["failed"][0]["statusReason"].as_str().unwrap().contains("epr.batch_key"));
    assert_eq!(status["created"][0]["endpointId"], "b");
    bed.stop().await;
}

#[tokio::test]
async fn an_order_that_cannot_be_carried_out_is_refused_at_once() {
    let (bed, _tekton) = start(&[]).await;
    let path = format!("{ENDPOINTS}/batch");
    let rest = bed.rest(ACME);
    let version = json!({"name": "app-v1"});
    for (body, status) in [
        (json!({"appVersion": version, "endpoints": []}), 400),
        (json!({"appVersion": version, "endpoints": vec![json!({}); 1_001]}), 400),
        (json!({"appVersion": version, "endpoints": [{"metadata": {"a b": 1}}]}), 400),
        (json!({"appVersion": version, "endpoints": [{"endpointId": "/"}]}), 400),
        (json!({"appVersion": {"name": "foreign-v1"}, "endpoints": [{}]}), 404),
    ] {
        rest.post(&path, &body).await.refused(status);
    }
    rest.get(&status_path("00000000-0000-4000-8000-000000000001")).await.refused(404);
    rest.get(&format!("{path}/status?appName=app&taskId=x")).await.refused(400);
    bed.stop().await;
}
