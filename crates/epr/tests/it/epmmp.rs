//! 19/EPMMP: metadata for other services.

use bytes::Bytes;
use ids::InstanceName;
use ism::Record as _;
use ism::eme::MetadataUpdatedEvent;
use ism::epmmp::*;
use serde_json::{Value, json};
use testbed::{ACME, Events, Testbed};

use crate::{Cm, ENDPOINTS, PlayedCm, connect, number, register, start};

fn at(message: ism::subject::Message) -> String {
    message.service(&InstanceName::parse("epr").unwrap())
}

async fn get(
    bed: &Testbed,
    endpoint_id: &str,
    include: &[&str],
    metadata: bool,
) -> EndpointMetadataGetResponse {
    let request = EndpointMetadataGetRequest {
        correlation_id: "c".to_owned(),
        timestamp: runtime::now_ms(),
        endpoint_id: endpoint_id.to_owned(),
        include: include.iter().map(|key| (*key).to_owned()).collect(),
        include_metadata: metadata,
        ..EndpointMetadataGetRequest::default()
    };
    bed.ask(at(EP_METADATA_GET_REQUEST), &request).await
}

fn object(response: &EndpointMetadataGetResponse) -> Value {
    serde_json::from_slice(response.payload.as_ref().unwrap()).unwrap()
}

async fn patch(bed: &Testbed, if_match: Option<String>, patch: Value) -> (i32, Option<String>) {
    let request = EndpointMetadataPatchRequest {
        correlation_id: "c".to_owned(),
        timestamp: runtime::now_ms(),
        endpoint_id: "e".to_owned(),
        if_match,
        patch: Bytes::from(patch.to_string()),
        ..EndpointMetadataPatchRequest::default()
    };
    let response: EndpointMetadataPatchResponse = bed.ask(at(EP_METADATA_PATCH_REQUEST), &request).await;
    (response.status_code, response.reason_phrase)
}

#[tokio::test]
async fn metadata_are_told_in_whole_in_part_or_not_at_all() {
    let (bed, _tekton) = start(&[]).await;
    let _cm = PlayedCm::start(&bed, Cm::Makes).await;
    register(&bed, "app-v1", "e", json!({"a": 1, "b": {"c": null}})).await;
    let all = get(&bed, "e", &[], true).await;
    assert_eq!((all.status_code, object(&all)), (200, json!({"a": 1, "b": {"c": null}})));
    assert_eq!((all.endpoint_id.as_str(), all.app_version_name.as_deref()), ("e", Some("app-v1")));
    let some = get(&bed, "e", &["b", "z"], true).await;
    assert_eq!((object(&some), &some.e_tag), (json!({"b": {"c": null}}), &all.e_tag));
    let none = get(&bed, "e", &[], false).await;
    assert_eq!((none.payload, none.app_version_name.as_deref()), (None, Some("app-v1")));
    assert_eq!(
        (get(&bed, "f", &[], true).await.status_code, get(&bed, "/", &[], true).await.status_code),
        (404, 400)
    );
    let request = EndpointMetadataKeysGetRequest {
        timestamp: runtime::now_ms(),
        endpoint_id: "e".to_owned(),
        ..EndpointMetadataKeysGetRequest::default()
    };
    let keys: EndpointMetadataKeysGetResponse = bed.ask(at(EP_METADATA_KEYS_GET_REQUEST), &request).await;
    assert_eq!((keys.status_code, keys.keys), (200, vec!["a".to_owned(), "b".to_owned()]));
    bed.stop().await;
}

#[tokio::test]
async fn a_patch_keeps_to_its_condition() {
    let (bed, _tekton) = start(&[]).await;
    let _cm = PlayedCm::start(&bed, Cm::Makes).await;
    register(&bed, "app-v1", "e", json!({"a": 1})).await;
    let tag = get(&bed, "e", &[], true).await.e_tag;
    assert_eq!(
        patch(&bed, tag.clone(), json!([{"op": "replace", "path": "/a", "value": 2}])).await,
        (200, None)
    );
    let (status, reason) = patch(&bed, tag, json!([{"op": "remove", "path": "/a"}])).await;
    assert_eq!((status, reason.unwrap().contains("read them again")), (412, true));
    let tag = get(&bed, "e", &[], true).await.e_tag.unwrap();
    let quoted = Some(format!("\"{tag}\""));
    assert_eq!(patch(&bed, quoted, json!([{"op": "add", "path": "/b", "value": 1}])).await.0, 200);
    assert_eq!(patch(&bed, None, json!([{"op": "remove", "path": "/z"}])).await.0, 409);
    assert_eq!(patch(&bed, None, json!({"op": "remove"})).await.0, 400);
    assert_eq!(patch(&bed, None, json!([{"op": "add", "path": "/b-c", "value": 1}])).await.0, 400);
    assert_eq!(object(&get(&bed, "e", &[], true).await), json!({"a": 2, "b": 1}));
    bed.stop().await;
}

fn command(endpoint_id: &str, key: &str, value: &'static str) -> EndpointMetadataKeyUpdateCommand {
    EndpointMetadataKeyUpdateCommand {
        endpoint_id: endpoint_id.to_owned(),
        metadata_key: key.to_owned(),
        metadata_value: Bytes::from_static(value.as_bytes()),
    }
}

#[tokio::test]
async fn keys_are_updated_one_by_one_and_in_batches() {
    let (bed, _tekton) = start(&[]).await;
    let _cm = PlayedCm::start(&bed, Cm::Makes).await;
    register(&bed, "app-v1", "e", json!({"a": 1})).await;
    register(&bed, "app-v1", "f", json!({})).await;
    let mut events = Events::listen(&bed.client, "kaa.v1.events.epr.endpoint.metadata.updated").await;
    let update = async |key: &str, value: &'static str| {
        let request = EndpointMetadataKeyUpdateRequest {
            correlation_id: "mine".to_owned(),
            timestamp: runtime::now_ms(),
            endpoint_id: "e".to_owned(),
            metadata_key: key.to_owned(),
            metadata_value: Bytes::from_static(value.as_bytes()),
            ..EndpointMetadataKeyUpdateRequest::default()
        };
        let response: EndpointMetadataKeyUpdateResponse =
            bed.ask(at(EP_METADATA_KEY_UPDATE_REQUEST), &request).await;
        response.status_code
    };
    assert_eq!(update("b", "{\"x\": [1]}").await, 200);
    assert_eq!(events.next::<MetadataUpdatedEvent>().await.1.correlation_id, "mine");
    assert_eq!((update("b", "{").await, update("b b", "1").await), (400, 400));
    let batch = async |commands: Vec<EndpointMetadataKeyUpdateCommand>| {
        let request = EndpointMetadataKeyBatchUpdateRequest {
            correlation_id: "mine".to_owned(),
            timestamp: runtime::now_ms(),
            timeout: 0,
            commands,
        };
        let response: EndpointMetadataKeyBatchUpdateResponse =
            bed.ask(at(EP_METADATA_KEY_BATCH_UPDATE_REQUEST), &request).await;
        (response.status_code, response.reason_phrase)
    };
    let commands =
        vec![command("e", "connected", "true"), command("e", "ts", "1"), command("f", "connected", "false")];
    assert_eq!(batch(commands).await, (200, None));
    assert_eq!(batch(Vec::new()).await.0, 200);
    // One event for each endpoint.
    let (_, first) = events.next::<MetadataUpdatedEvent>().await;
    let (_, second) = events.next::<MetadataUpdatedEvent>().await;
    assert_eq!(first.added.len() + second.added.len(), 3);
    // Whoever is gone does not hold up the others.
    let (status, reason) = batch(vec![command("e", "ts", "2"), command("gone", "ts", "2")]).await;
    assert_eq!(status, 404);
    assert!(reason.as_ref().unwrap().contains("1 of 2 endpoints are not updated (gone)"), "{reason:?}");
    let metadata = bed.rest(ACME).get(&format!("{ENDPOINTS}/e/metadata")).await.expect(200);
    assert_eq!(metadata, json!({"a": 1, "b": {"x": [1]}, "connected": true, "ts": 2}));
    bed.stop().await;
}

#[tokio::test]
async fn versions_of_many_endpoints_are_told() {
    let (bed, _tekton) = start(&[]).await;
    let _cm = PlayedCm::start(&bed, Cm::Makes).await;
    for (version, endpoint_id) in [("app-v1", "a"), ("app-v1", "b"), ("foreign-v1", "x")] {
        register(&bed, version, endpoint_id, json!({})).await;
    }
    let request = AppVersionsByEndpointsRequest {
        timestamp: runtime::now_ms(),
        endpoint_ids: ["a", "b", "x", "none", "/"].map(ToOwned::to_owned).to_vec(),
        ..AppVersionsByEndpointsRequest::default()
    };
    let response: AppVersionsByEndpointsResponse = bed.ask(at(EP_APP_VERSION_GET_REQUEST), &request).await;
    assert_eq!((response.status_code, &response.endpoint_ids), (200, &request.endpoint_ids));
    let mut versions = response.app_versions_to_endpoints;
    versions.values_mut().for_each(|endpoints| endpoints.sort_unstable());
    assert_eq!(versions["app-v1"], ["a", "b"]);
    assert_eq!((versions.len(), versions["foreign-v1"].as_slice()), (2, &["x".to_owned()][..]));
    bed.stop().await;
}

#[tokio::test]
async fn what_is_over_is_not_carried_out_after_something_newer() {
    let (bed, _tekton) = start(&[]).await;
    let _cm = PlayedCm::start(&bed, Cm::Makes).await;
    register(&bed, "app-v1", "e", json!({})).await;
    // Somebody holds the endpoint for longer than the request has time.
    let mut holder = connect(&bed).await;
    sqlx::query("BEGIN").execute(&mut holder).await.unwrap();
    sqlx::query("SELECT FROM epr.endpoints FOR UPDATE").execute(&mut holder).await.unwrap();
    let request = EndpointMetadataKeyUpdateRequest {
        timestamp: runtime::now_ms(),
        timeout: 1_000,
        endpoint_id: "e".to_owned(),
        metadata_key: "late".to_owned(),
        metadata_value: Bytes::from_static(b"1"),
        ..EndpointMetadataKeyUpdateRequest::default()
    };
    let (subject, inbox) = (at(EP_METADATA_KEY_UPDATE_REQUEST), bed.client.new_inbox());
    bed.client.publish_with_reply(subject, inbox, request.encode()).await.unwrap();
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%NO KEY UPDATE%'
        AND datname = current_database()";
    let waiting = async || {
        let over = runtime::now_ms() > request.timestamp + request.timeout;
        (over && number(&bed, waits).await == 1).then_some(())
    };
    testkit::eventually("the end of its time", testbed::PATIENCE, waiting).await;
    sqlx::query("COMMIT").execute(&mut holder).await.unwrap();
    // Nobody waits any more: it was tried.
    let done = async || (number(&bed, waits).await == 0).then_some(());
    testkit::eventually("the attempt", testbed::PATIENCE, done).await;
    bed.rest(ACME).put(&format!("{ENDPOINTS}/e/metadata/new"), &json!(1)).await.expect(204);
    assert_eq!(bed.rest(ACME).get(&format!("{ENDPOINTS}/e/metadata")).await.expect(200), json!({"new": 1}));
    bed.stop().await;
}
