//! How endpoints come to be, whatever happens meanwhile.

use ism::elce::RegisteredEvent;
use serde_json::json;
use sqlx::{Connection as _, PgConnection};
use testbed::{ACME, Events, OTHER, Testbed};

use crate::{Cm, ENDPOINTS, PlayedCm, start, with_id};

async fn rows(bed: &Testbed) -> i64 {
    let mut connection = PgConnection::connect(&bed.database.url).await.unwrap();
    sqlx::query_scalar("SELECT count(*) FROM epr.endpoints").fetch_one(&mut connection).await.unwrap()
}

#[tokio::test]
async fn an_endpoint_is_registered_with_its_token_and_announced() {
    let (bed, _tekton) = start(&[]).await;
    let cm = PlayedCm::start(&bed, Cm::Makes).await;
    let mut registered = Events::listen(&bed.client, "kaa.v1.events.*.endpoint.lifecycle.registered").await;
    let body = json!({
        "appVersion": {"name": "app-v1"}, "endpointToken": "my token ü".replace(' ', ""),
        "metadata": {"serial": "x", "nested": {"a b": [1, null]}},
    });
    let made = bed.rest(ACME).post(ENDPOINTS, &body).await;
    let location = made.location.clone().unwrap();
    let endpoint = made.expect(201);
    let id = endpoint["endpointId"].as_str().unwrap();
    assert_eq!((id.len(), location), (36, format!("{ENDPOINTS}/{id}")));
    assert_eq!((&endpoint["token"], &endpoint["status"]), (&json!("mytokenü"), &json!("Inactive")));
    assert_eq!(endpoint["appVersion"]["name"], "app-v1");
    assert_eq!(endpoint["metadata"], body["metadata"]);
    for time in [&endpoint["createdDate"], &endpoint["appVersion"]["registeredDate"]] {
        assert!(time.as_str().unwrap().ends_with('Z'));
    }
    let (subject, event) = registered.next::<RegisteredEvent>().await;
    assert_eq!(subject, "kaa.v1.events.epr.endpoint.lifecycle.registered");
    assert_eq!((event.endpoint_id.as_str(), event.app_version_name.as_str()), (id, "app-v1"));
    let asked = cm.asked.lock().unwrap().clone();
    let [request] = asked.as_slice() else { panic!("{asked:?}") };
    assert_eq!((request.tenant_id.as_str(), request.app_name.as_str()), ("acme", "app"));
    assert_eq!((request.endpoint_id.as_str(), &request.correlation_id), (id, &event.correlation_id));
    bed.stop().await;
}

#[tokio::test]
async fn an_endpoint_id_is_registered_once_in_the_platform() {
    let (bed, _tekton) = start(&[]).await;
    let _cm = PlayedCm::start(&bed, Cm::Makes).await;
    bed.rest(ACME).post(ENDPOINTS, &with_id("Meter_1.a~b-c")).await.expect(201);
    assert!(
        bed.rest(ACME)
            .post(ENDPOINTS, &with_id("Meter_1.a~b-c"))
            .await
            .refused(409)
            .contains("Meter_1.a~b-c")
    );
    let foreign = json!({"appVersion": {"name": "foreign-v1"}, "endpointId": "Meter_1.a~b-c"});
    bed.rest(OTHER).post(ENDPOINTS, &foreign).await.refused(409);
    bed.stop().await;
}

#[tokio::test]
async fn requests_at_once_for_one_id_register_it_once() {
    let (bed, _tekton) = start(&[]).await;
    let _cm = PlayedCm::start(&bed, Cm::Makes).await;
    let rest = bed.rest(ACME);
    let body = with_id("e");
    let answers =
        tokio::join!(rest.post(ENDPOINTS, &body), rest.post(ENDPOINTS, &body), rest.post(ENDPOINTS, &body));
    let mut statuses = [answers.0.status, answers.1.status, answers.2.status];
    statuses.sort_unstable();
    assert_eq!(statuses[0], 201);
    // The others came while the first was in work (503: come again) or after it (409).
    assert!(statuses[1..].iter().all(|status| [409, 503].contains(status)), "{statuses:?}");
    assert_eq!(rows(&bed).await, 1);
    bed.stop().await;
}

#[tokio::test]
async fn a_refused_token_leaves_nothing_behind() {
    let (bed, _tekton) = start(&[]).await;
    let cm = PlayedCm::start(&bed, Cm::Refuses(409)).await;
    bed.rest(ACME).post(ENDPOINTS, &with_id("e")).await.refused(409);
    cm.now(Cm::Refuses(400));
    bed.rest(ACME).post(ENDPOINTS, &with_id("e")).await.refused(400);
    cm.now(Cm::Refuses(429));
    bed.rest(ACME).post(ENDPOINTS, &with_id("e")).await.refused(400);
    assert_eq!(rows(&bed).await, 0);
    bed.rest(ACME).get(&format!("{ENDPOINTS}/e")).await.refused(404);
    cm.now(Cm::Makes);
    let foreign = json!({"appVersion": {"name": "foreign-v1"}, "endpointId": "e"});
    bed.rest(OTHER).post(ENDPOINTS, &foreign).await.expect(201);
    bed.stop().await;
}

#[tokio::test]
async fn without_cm_nothing_is_registered() {
    let (bed, _tekton) = start(&[("epr.token_timeout_ms", "300")]).await;
    let message = bed.rest(ACME).post(ENDPOINTS, &with_id("e")).await.refused(503);
    assert!(message.contains("try again"), "{message}");
    assert_eq!(rows(&bed).await, 0);
    let _cm = PlayedCm::start(&bed, Cm::Makes).await;
    bed.rest(ACME).post(ENDPOINTS, &with_id("e")).await.expect(201);
    bed.stop().await;
}

#[tokio::test]
async fn a_cm_that_comes_back_in_time_is_waited_for() {
    let (bed, _tekton) = start(&[("epr.token_timeout_ms", "15000")]).await;
    let rest = bed.rest(ACME);
    let body = with_id("e");
    let (made, _cm) = tokio::join!(rest.post(ENDPOINTS, &body), async {
        testkit::eventually("the reservation", testbed::PATIENCE, async || {
            (rows(&bed).await == 1).then_some(())
        })
        .await;
        PlayedCm::start(&bed, Cm::Makes).await
    });
    made.expect(201);
    bed.stop().await;
}

#[tokio::test]
async fn after_a_lost_answer_the_same_request_registers_and_the_id_is_nobody_elses() {
    let (bed, _tekton) = start(&[("epr.token_timeout_ms", "300")]).await;
    let cm = PlayedCm::start(&bed, Cm::Silent).await;
    let message = bed.rest(ACME).post(ENDPOINTS, &with_id("e")).await.refused(503);
    assert!(message.contains("\"endpointId\": \"e\""), "{message}");
    // Nobody sees it.
    bed.rest(ACME).get(&format!("{ENDPOINTS}/e")).await.refused(404);
    assert_eq!(bed.rest(ACME).get(ENDPOINTS).await.expect(200)["totalElements"], 0);
    cm.now(Cm::Makes);
    // A token that leads to the id may exist in this tenant's application.
    let foreign = json!({"appVersion": {"name": "foreign-v1"}, "endpointId": "e"});
    bed.rest(OTHER).post(ENDPOINTS, &foreign).await.refused(409);
    let elsewhere = json!({"appVersion": {"name": "more-v1"}, "endpointId": "e"});
    bed.rest(ACME).post(ENDPOINTS, &elsewhere).await.refused(409);
    let again = json!({"appVersion": {"name": "app-v2"}, "endpointId": "e"});
    assert_eq!(bed.rest(ACME).post(ENDPOINTS, &again).await.expect(201)["appVersion"]["name"], "app-v2");
    // A refusal later does not free an id that a token may lead to.
    cm.now(Cm::Silent);
    bed.rest(ACME).post(ENDPOINTS, &with_id("f")).await.refused(503);
    cm.now(Cm::Refuses(409));
    bed.rest(ACME).post(ENDPOINTS, &with_id("f")).await.refused(409);
    assert_eq!(rows(&bed).await, 2);
    bed.stop().await;
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_when_the_token_was_wished_for() {
    let (bed, _tekton) = start(&[("epr.token_timeout_ms", "9000")]).await;
    let cm = PlayedCm::start(&bed, Cm::Silent).await;
    let body = json!({"appVersion": {"name": "app-v1"}, "endpointToken": "wish"});
    let rest = bed.rest(ACME);
    let (made, ()) = tokio::join!(rest.post(ENDPOINTS, &body), async {
        let asked = async || (!cm.asked.lock().unwrap().is_empty()).then_some(());
        testkit::eventually("the first request", testbed::PATIENCE, asked).await;
        cm.now(Cm::Makes);
    });
    assert_eq!(made.expect(201)["token"], "wish");
    assert_eq!(cm.asked.lock().unwrap().len(), 2);
    bed.stop().await;
}

#[tokio::test]
async fn an_interrupted_registration_holds_its_id_for_a_while_only() {
    let (bed, _tekton) = start(&[]).await;
    let _cm = PlayedCm::start(&bed, Cm::Makes).await;
    let mut connection = PgConnection::connect(&bed.database.url).await.unwrap();
    // What a process leaves that dies between reserving and confirming.
    sqlx::query(
        "INSERT INTO epr.endpoints (endpoint_id, tenant_id, application_name, app_version_name,
             app_version_registered_at, metadata, created_at, registration_id, reserved_until)
         VALUES ('e', 'acme', 'app', 'app-v1', now(), '{}', now(), gen_random_uuid(), now() + interval '1 hour')",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    let message = bed.rest(ACME).post(ENDPOINTS, &with_id("e")).await.refused(503);
    assert!(message.contains("being registered"), "{message}");
    sqlx::query("UPDATE epr.endpoints SET reserved_until = now()").execute(&mut connection).await.unwrap();
    bed.rest(ACME).post(ENDPOINTS, &with_id("e")).await.expect(201);
    bed.stop().await;
}

#[tokio::test]
async fn bad_input_is_refused_with_the_reason() {
    let (bed, _tekton) = start(&[("epr.metadata_bytes_max", "50"), ("epr.metadata_keys_max", "2")]).await;
    let _cm = PlayedCm::start(&bed, Cm::Makes).await;
    let rest = bed.rest(ACME);
    let version = json!({"name": "app-v1"});
    for (body, word) in [
        (json!({}), "appVersion"),
        (json!({"appVersion": {"name": "A"}}), "version name"),
        (json!({"appVersion": version, "endpointId": "a/b"}), "endpoint id"),
        (json!({"appVersion": version, "endpointId": "batch"}), "paths"),
        (json!({"appVersion": version, "endpointToken": "a.b"}), "endpoint token"),
        (json!({"appVersion": version, "metadata": {"a-b": 1}}), "a-b"),
        (json!({"appVersion": version, "metadata": {"a": "\u{0}"}}), "NUL"),
        (json!({"appVersion": version, "metadata": [1]}), "metadata"),
        (json!({"appVersion": version, "metadata": {"a": "x".repeat(50)}}), "epr.metadata_bytes_max"),
        (json!({"appVersion": version, "metadata": {"a": 1, "b": 1, "c": 1}}), "epr.metadata_keys_max"),
        (json!({"appVersion": version, "relations": [{"type": "contains"}]}), "either from or to"),
        (json!({"appVersion": version, "relations": [{"type": "likes", "to": "e"}]}), "likes"),
        (json!({"appVersion": version, "group": "x".repeat(129)}), "group"),
    ] {
        let message = rest.post(ENDPOINTS, &body).await.refused(400);
        assert!(message.contains(word), "{body}: {message}");
    }
    for version in ["none-v1", "foreign-v1"] {
        let message = rest.post(ENDPOINTS, &json!({"appVersion": {"name": version}})).await.refused(404);
        assert!(message.contains(version), "{message}");
    }
    assert_eq!(rows(&bed).await, 0);
    bed.stop().await;
}

#[tokio::test]
async fn without_tekton_the_caller_is_told_to_come_again() {
    let (bed, tekton) = start(&[]).await;
    drop(tekton);
    bed.client.flush().await.unwrap();
    let gone = async || {
        let answer = bed.rest(ACME).post(ENDPOINTS, &with_id("e")).await;
        (answer.status == 503).then_some(answer)
    };
    let answer = testkit::eventually("tekton to be gone", testbed::PATIENCE, gone).await;
    assert!(answer.refused(503).contains("application versions"));
    bed.stop().await;
}
