//! How endpoints go, whatever happens meanwhile.

use std::time::Duration;

use ism::elce::UnregisteredEvent;
use ism::scmp::{self, BroadcastConfigurationUpdateEvent};
use ism::{Record as _, tle};
use serde_json::json;
use testbed::{ACME, Events, OTHER, Testbed};

use crate::{Cm, ENDPOINTS, PlayedCm, execute, number, play_tekton, register, start, with_id};

const UNREGISTERED: &str = "kaa.v1.events.*.endpoint.lifecycle.unregistered";

async fn gone(bed: &Testbed, endpoint_id: &str) {
    bed.rest(ACME).get(&format!("{ENDPOINTS}/{endpoint_id}")).await.refused(404);
    assert_eq!(bed.rest(ACME).get(ENDPOINTS).await.expect(200)["totalElements"], 0);
}

#[tokio::test]
async fn a_deleted_endpoint_is_gone_with_its_tokens_and_all_are_told() {
    let (bed, _tekton) = start(&[]).await;
    let cm = PlayedCm::start(&bed, Cm::Makes).await;
    register(&bed, "app-v1", "e", json!({"a": 1})).await;
    let mut events = Events::listen(&bed.client, UNREGISTERED).await;
    let path = format!("{ENDPOINTS}/e");
    bed.rest(OTHER).delete(&path).await.refused(404);
    bed.rest(ACME).delete(&path).await.expect(204);
    let asked = cm.deleted.lock().unwrap().clone();
    let [request] = asked.as_slice() else { panic!("{asked:?}") };
    assert_eq!(
        (request.tenant_id.as_str(), request.app_name.as_str(), request.endpoint_id.as_str()),
        ("acme", "app", "e")
    );
    let (subject, event) = events.next::<UnregisteredEvent>().await;
    assert_eq!(subject, "kaa.v1.events.epr.endpoint.lifecycle.unregistered");
    assert_eq!((event.endpoint_id.as_str(), event.app_version_name.as_str()), ("e", "app-v1"));
    gone(&bed, "e").await;
    // Asked again, for the answer may have been lost.
    bed.rest(ACME).delete(&path).await.expect(204);
    bed.rest(OTHER).delete(&path).await.refused(404);
    bed.rest(ACME).delete(&format!("{ENDPOINTS}/f")).await.refused(404);
    // The id is free, for anybody.
    let foreign = json!({"appVersion": {"name": "foreign-v1"}, "endpointId": "e"});
    bed.rest(OTHER).post(ENDPOINTS, &foreign).await.expect(201);
    bed.rest(ACME).delete(&path).await.refused(404);
    bed.stop().await;
}

#[tokio::test]
async fn while_cm_is_silent_the_endpoint_is_hidden_and_nobody_is_told_that_it_is_gone() {
    let (bed, _tekton) = start(&[("epr.token_timeout_ms", "200"), ("epr.sweep_interval_ms", "50")]).await;
    let cm = PlayedCm::start(&bed, Cm::Makes).await;
    register(&bed, "app-v1", "e", json!({})).await;
    register(&bed, "app-v1", "f", json!({})).await;
    let mut events = Events::listen(&bed.client, UNREGISTERED).await;
    for silence in [Cm::Silent, Cm::Refuses(503)] {
        cm.now(silence);
        let message = bed.rest(ACME).delete(&format!("{ENDPOINTS}/e")).await.refused(503);
        assert!(message.contains("may be repeated") || message.contains("try again"), "{message}");
    }
    bed.rest(ACME).get(&format!("{ENDPOINTS}/e")).await.refused(404);
    bed.rest(ACME).put(&format!("{ENDPOINTS}/e/metadata/a"), &json!(1)).await.refused(404);
    assert!(bed.rest(ACME).post(ENDPOINTS, &with_id("e")).await.refused(503).contains("being deleted"));
    assert_eq!(number(&bed, "SELECT count(*) FROM epr.deleted_endpoints").await, 0);
    bed.rest(ACME).delete(&format!("{ENDPOINTS}/f")).await.refused(503);
    cm.now(Cm::Makes);
    // One is asked for again, the other is finished by the sweeper.
    let again = async || {
        let answer = bed.rest(ACME).delete(&format!("{ENDPOINTS}/e")).await;
        (answer.status == 204).then_some(())
    };
    testkit::eventually("the end of e", testbed::PATIENCE, again).await;
    let mut unregistered = [events.next::<UnregisteredEvent>().await.1, events.next().await.1];
    unregistered.sort_by(|one, other| one.endpoint_id.cmp(&other.endpoint_id));
    assert_eq!(unregistered.map(|event| event.endpoint_id), ["e", "f"]);
    gone(&bed, "f").await;
    bed.stop().await;
}

/// A second request to `cm` might be carried out when the id is another endpoint's already.
#[tokio::test]
async fn cm_is_asked_by_one_at_a_time() {
    let (bed, _tekton) = start(&[("epr.token_timeout_ms", "2000"), ("epr.sweep_interval_ms", "20")]).await;
    let cm = PlayedCm::start(&bed, Cm::Makes).await;
    register(&bed, "app-v1", "e", json!({})).await;
    cm.now(Cm::Silent);
    let first = tokio::spawn({
        let rest = bed.rest(ACME);
        async move { rest.delete(&format!("{ENDPOINTS}/e")).await.status }
    });
    let asked = async || (cm.deleted.lock().unwrap().len() == 1).then_some(());
    testkit::eventually("the first request", testbed::PATIENCE, asked).await;
    let message = bed.rest(ACME).delete(&format!("{ENDPOINTS}/e")).await.refused(503);
    assert!(message.contains("being deleted"), "{message}");
    assert!(first.is_finished() || cm.deleted.lock().unwrap().len() == 1);
    cm.now(Cm::Makes);
    assert_eq!(first.await.unwrap(), 503);
    let again = async || {
        let answer = bed.rest(ACME).delete(&format!("{ENDPOINTS}/e")).await;
        (answer.status == 204).then_some(())
    };
    testkit::eventually("the end", testbed::PATIENCE, again).await;
    bed.stop().await;
}

#[tokio::test]
async fn a_deletion_is_announced_again_until_the_id_is_anothers() {
    let (bed, _tekton) = start(&[("epr.sweep_interval_ms", "50")]).await;
    let cm = PlayedCm::start(&bed, Cm::Makes).await;
    register(&bed, "app-v1", "e", json!({})).await;
    let mut events = Events::listen(&bed.client, UNREGISTERED).await;
    bed.rest(ACME).delete(&format!("{ENDPOINTS}/e")).await.expect(204);
    let (_, first) = events.next::<UnregisteredEvent>().await;
    // As if the minute had passed.
    execute(&bed, "UPDATE epr.deleted_endpoints SET announce_at = now()").await;
    let (_, again) = events.next::<UnregisteredEvent>().await;
    assert_eq!((again.timestamp, again.endpoint_id.as_str()), (first.timestamp, "e"));
    let far = "SELECT count(*) FROM epr.deleted_endpoints WHERE announce_at > now() + interval '30 seconds'";
    testkit::eventually("the next time", testbed::PATIENCE, async || {
        (number(&bed, far).await == 1).then_some(())
    })
    .await;
    // A registration that does not succeed puts the announcement off; one that does ends it.
    cm.now(Cm::Refuses(409));
    bed.rest(ACME).post(ENDPOINTS, &with_id("e")).await.refused(409);
    assert_eq!(number(&bed, far).await, 1);
    cm.now(Cm::Makes);
    bed.rest(ACME).post(ENDPOINTS, &with_id("e")).await.expect(201);
    assert_eq!(number(&bed, "SELECT count(*) FROM epr.deleted_endpoints").await, 0);
    // After the last time there is none, and after 30 days nothing is remembered.
    bed.rest(ACME).delete(&format!("{ENDPOINTS}/e")).await.expect(204);
    events.next::<UnregisteredEvent>().await;
    execute(
        &bed,
        "UPDATE epr.deleted_endpoints SET announce_at = now(), deleted_at = deleted_at - interval '2 days'",
    )
    .await;
    events.next::<UnregisteredEvent>().await;
    let never = "SELECT count(*) FROM epr.deleted_endpoints WHERE announce_at IS NULL";
    testkit::eventually("the end", testbed::PATIENCE, async || {
        (number(&bed, never).await == 1).then_some(())
    })
    .await;
    execute(&bed, "UPDATE epr.deleted_endpoints SET deleted_at = now() - interval '31 days'").await;
    let left = "SELECT count(*) FROM epr.deleted_endpoints";
    testkit::eventually("oblivion", testbed::PATIENCE, async || {
        (number(&bed, left).await == 0).then_some(())
    })
    .await;
    bed.stop().await;
}

#[tokio::test]
async fn many_are_deleted_by_one_request_each_for_itself() {
    let (bed, _tekton) = start(&[("epr.token_timeout_ms", "200")]).await;
    let cm = PlayedCm::start(&bed, Cm::Makes).await;
    for endpoint_id in ["a", "b", "c", "d", "e"] {
        register(&bed, "app-v1", endpoint_id, json!({})).await;
    }
    register(&bed, "foreign-v1", "x", json!({})).await;
    let delete = format!("{ENDPOINTS}/delete");
    let rest = bed.rest(ACME);
    let deleted = rest.post(&delete, &json!({"endpointIds": ["a", "b", "b", "x", "z"]})).await.expect(200);
    assert_eq!((&deleted["deletedCount"], &deleted["failedCount"]), (&json!(2), &json!(2)));
    let mut failed: Vec<_> = deleted["failed"]
        .as_array()
        .unwrap()
        .iter()
        .map(|failed| (failed["endpointId"].as_str().unwrap(), failed["statusCode"].as_u64().unwrap()))
        .collect();
    failed.sort_unstable();
    assert_eq!(failed, [("x", 404), ("z", 404)]);
    cm.now(Cm::Silent);
    let deleted = rest.post(&delete, &json!({"endpointIds": ["c", "d", "e"]})).await.expect(200);
    assert_eq!((&deleted["failedCount"], &deleted["failed"][0]["statusCode"]), (&json!(3), &json!(503)));
    gone(&bed, "c").await;
    cm.now(Cm::Makes);
    assert_eq!(
        rest.post(&delete, &json!({"endpointIds": ["a", "c", "d", "e"]})).await.expect(200)["deletedCount"],
        4
    );
    rest.post(&delete, &json!({"endpointIds": []})).await.refused(400);
    bed.rest(OTHER).get(&format!("{ENDPOINTS}/x")).await.expect(200);
    bed.stop().await;
}

fn deleted_application(app_ver_name: Option<&str>) -> BroadcastConfigurationUpdateEvent {
    BroadcastConfigurationUpdateEvent {
        correlation_id: "c".to_owned(),
        timestamp: runtime::now_ms(),
        originator_replica_id: "tekton-0".to_owned(),
        tenant_id: Some("acme".to_owned()),
        app_name: Some("app".to_owned()),
        app_ver_name: app_ver_name.map(ToOwned::to_owned),
    }
}

async fn total(bed: &Testbed) -> i64 {
    bed.rest(ACME).get(ENDPOINTS).await.expect(200)["totalElements"].as_i64().unwrap()
}

#[tokio::test]
async fn the_endpoints_of_a_deleted_application_go_when_it_is_really_gone() {
    let (bed, tekton) = start(&[("epr.sweep_interval_ms", "50")]).await;
    let cm = PlayedCm::start(&bed, Cm::Makes).await;
    for endpoint_id in ["a", "b", "c"] {
        register(&bed, "app-v1", endpoint_id, json!({})).await;
    }
    register(&bed, "more-v1", "d", json!({})).await;
    let subject = scmp::DELETED.of(&ids::InstanceName::parse("tekton").unwrap());
    // A version, and an application that is still there.
    for version in [Some("app-v1"), None] {
        let event = deleted_application(version);
        bed.client.publish(subject.clone(), event.encode()).await.unwrap();
    }
    let ordered = async || (number(&bed, "SELECT count(*) FROM epr.purges").await == 1).then_some(());
    testkit::eventually("the order", testbed::PATIENCE, ordered).await;
    assert_eq!(total(&bed).await, 4);
    drop(tekton);
    let _tekton = play_tekton(&bed, Some("app")).await;
    let event = deleted_application(None);
    bed.client.publish(subject, event.encode()).await.unwrap();
    testkit::eventually("the end of three", testbed::PATIENCE, async || {
        (total(&bed).await == 1).then_some(())
    })
    .await;
    let done = async || {
        let left = number(&bed, "SELECT count(*) FROM epr.purges").await
            + number(&bed, "SELECT count(*) FROM epr.endpoints WHERE deleted_at IS NOT NULL").await;
        (left == 0).then_some(())
    };
    testkit::eventually("the end of the order", testbed::PATIENCE, done).await;
    assert_eq!(cm.deleted.lock().unwrap().len(), 3);
    bed.stop().await;
}

#[tokio::test]
async fn an_application_that_is_there_keeps_its_endpoints() {
    let (bed, _tekton) = start(&[("epr.sweep_interval_ms", "50")]).await;
    let _cm = PlayedCm::start(&bed, Cm::Makes).await;
    register(&bed, "app-v1", "a", json!({})).await;
    execute(&bed, "INSERT INTO epr.purges VALUES ('acme', 'app', now() - interval '2 minutes')").await;
    let dropped = async || (number(&bed, "SELECT count(*) FROM epr.purges").await == 0).then_some(());
    testkit::eventually("the end of the order", testbed::PATIENCE, dropped).await;
    assert_eq!(total(&bed).await, 1);
    bed.stop().await;
}

#[tokio::test]
async fn the_endpoints_of_an_unregistered_tenant_go() {
    let (bed, _tekton) = start(&[("epr.sweep_interval_ms", "50"), ("epr.token_timeout_ms", "200")]).await;
    let cm = PlayedCm::start(&bed, Cm::Makes).await;
    for (version, endpoint_id) in [("app-v1", "a"), ("more-v1", "b"), ("foreign-v1", "x")] {
        register(&bed, version, endpoint_id, json!({})).await;
    }
    // A registration that does not come to its end keeps the id.
    cm.now(Cm::Silent);
    bed.rest(ACME).post(ENDPOINTS, &with_id("half")).await.refused(503);
    cm.now(Cm::Makes);
    let event = tle::UnregisteredEvent {
        correlation_id: "c".to_owned(),
        timestamp: runtime::now_ms(),
        timeout: 0,
        tenant_id: "acme".to_owned(),
        originator_replica_id: "tm-0".to_owned(),
    };
    let subject = tle::UNREGISTERED.of(&ids::InstanceName::parse("tm").unwrap());
    bed.client.publish(subject, event.encode()).await.unwrap();
    testkit::eventually("the end of all", testbed::PATIENCE, async || (total(&bed).await == 0).then_some(()))
        .await;
    let left = "SELECT count(*) FROM epr.endpoints WHERE tenant_id = 'acme'";
    testkit::eventually("the end of reserved ids", testbed::PATIENCE, async || {
        (number(&bed, left).await == 0).then_some(())
    })
    .await;
    bed.rest(OTHER).get(&format!("{ENDPOINTS}/x")).await.expect(200);
    bed.stop().await;
}

#[tokio::test]
async fn a_deletion_that_was_interrupted_goes_on() {
    let (bed, _tekton) = start(&[("epr.sweep_interval_ms", "50")]).await;
    let _cm = PlayedCm::start(&bed, Cm::Makes).await;
    register(&bed, "app-v1", "e", json!({})).await;
    let mut events = Events::listen(&bed.client, UNREGISTERED).await;
    // What a process leaves that dies between marking and the end.
    execute(
        &bed,
        "UPDATE epr.endpoints SET registered_at = NULL, deleted_at = now(), deletion_due_at = now(),
             reserved_until = 'infinity'",
    )
    .await;
    assert_eq!(events.next::<UnregisteredEvent>().await.1.endpoint_id, "e");
    let left = async || (number(&bed, "SELECT count(*) FROM epr.endpoints").await == 0).then_some(());
    testkit::eventually("the end", Duration::from_secs(20), left).await;
    bed.stop().await;
}
