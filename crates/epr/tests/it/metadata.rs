//! Metadata over REST.

use std::collections::{BTreeMap, BTreeSet};

use ism::eme::{MetadataKeyUpdatedDto, MetadataUpdatedEvent};
use reqwest::Method;
use serde_json::{Value, json};
use testbed::{ACME, Events, OTHER, Rest, Testbed};

use crate::{Cm, ENDPOINTS, PlayedCm, register, start};

const UPDATED: &str = "kaa.v1.events.*.endpoint.metadata.updated";

fn path(rest: &str) -> String {
    format!("{ENDPOINTS}/e/{rest}")
}

async fn patch(rest: &Rest, patch: Value) -> testbed::Answer {
    let headers = [("content-type", "application/json-patch+json")];
    rest.call_with(Method::PATCH, &path("metadata"), &headers, Some(&patch)).await
}

fn map(entries: &[(&str, &str)]) -> BTreeMap<String, Option<String>> {
    entries.iter().map(|(key, value)| ((*key).to_owned(), Some((*value).to_owned()))).collect()
}

#[tokio::test]
async fn metadata_are_read_replaced_patched_and_changed_key_by_key() {
    let (bed, _tekton) = start(&[]).await;
    let _cm = PlayedCm::start(&bed, Cm::Makes).await;
    register(&bed, "app-v1", "e", json!({"a": 1, "b": null})).await;
    let mut events = Events::listen(&bed.client, UPDATED).await;
    let rest = bed.rest(ACME);

    let read = rest.get(&path("metadata")).await;
    let first = read.etag.clone().unwrap();
    assert_eq!(read.expect(200), json!({"a": 1, "b": null}));
    assert_eq!(rest.get(&path("metadata?include=a,z")).await.expect(200), json!({"a": 1}));
    let known = [("if-none-match", first.as_str())];
    assert_eq!(rest.call_with(Method::GET, &path("metadata"), &known, None).await.status, 304);

    let replaced = rest.put(&path("metadata?inheritedMetadata=true"), &json!({"b": 2, "c": [1.5]})).await;
    let second = replaced.etag.clone().unwrap();
    assert_eq!(replaced.expect(200), json!({"b": 2, "c": [1.5]}));
    assert_ne!(first, second);
    let (subject, event) = events.next::<MetadataUpdatedEvent>().await;
    assert_eq!(subject, "kaa.v1.events.epr.endpoint.metadata.updated");
    assert_eq!((event.endpoint_id.as_str(), event.app_version_name.as_str()), ("e", "app-v1"));
    assert_eq!((&event.removed, &event.added), (&map(&[("a", "1")]), &map(&[("c", "[1.5]")])));
    let values = MetadataKeyUpdatedDto { new_value: Some("2".to_owned()), old_value: None };
    assert_eq!(event.updated, BTreeMap::from([("b".to_owned(), values)]));

    // What changes nothing is announced to nobody and has the same tag.
    assert_eq!(rest.put(&path("metadata"), &json!({"c": [1.5], "b": 2})).await.etag.unwrap(), second);
    let patched =
        patch(&rest, json!([{"op": "add", "path": "/d", "value": "x"}, {"op": "remove", "path": "/b"}]));
    assert_eq!(patched.await.expect(200), json!({"c": [1.5], "d": "x"}));
    let (_, event) = events.next::<MetadataUpdatedEvent>().await;
    assert_eq!((event.removed, event.added), (map(&[("b", "2")]), map(&[("d", "\"x\"")])));

    assert_eq!(rest.get(&path("metadata/d")).await.expect(200), json!("x"));
    rest.put(&path("metadata/d"), &Value::Null).await.expect(204);
    assert_eq!(rest.get(&path("metadata/d")).await.expect(200), Value::Null);
    rest.delete(&path("metadata/c")).await.expect(204);
    rest.delete(&path("metadata/c")).await.expect(204);
    assert!(rest.get(&path("metadata/c")).await.refused(404).contains("metadata key c"));
    assert_eq!(rest.get(&path("metadata-keys")).await.expect(200), json!(["d"]));
    let (_, event) = events.next::<MetadataUpdatedEvent>().await;
    assert_eq!(event.updated["d"].new_value.as_deref(), None);
    assert_eq!(events.next::<MetadataUpdatedEvent>().await.1.removed, map(&[("c", "[1.5]")]));
    bed.stop().await;
}

#[tokio::test]
async fn whoever_read_before_a_change_is_told() {
    let (bed, _tekton) = start(&[]).await;
    let _cm = PlayedCm::start(&bed, Cm::Makes).await;
    register(&bed, "app-v1", "e", json!({})).await;
    let rest = bed.rest(ACME);
    let tag = rest.get(&path("metadata")).await.etag.unwrap();
    let headers = [("if-match", tag.as_str())];
    let put = |body: Value| {
        let rest = rest.clone();
        async move { rest.call_with(Method::PUT, &path("metadata"), &headers, Some(&body)).await }
    };
    put(json!({"a": 1})).await.expect(200);
    let message = put(json!({"a": 2})).await.refused(412);
    assert!(message.contains("read them again"), "{message}");
    for (method, at, body) in [
        (Method::PATCH, "metadata", Some(json!([]))),
        (Method::PUT, "metadata/a", Some(json!(1))),
        (Method::DELETE, "metadata/a", None),
    ] {
        rest.call_with(method, &path(at), &headers, body.as_ref()).await.refused(412);
    }
    assert_eq!(rest.get(&path("metadata")).await.expect(200), json!({"a": 1}));
    bed.stop().await;
}

#[tokio::test]
async fn what_cannot_be_done_is_refused_and_changes_nothing() {
    let (bed, _tekton) = start(&[("epr.metadata_bytes_max", "60"), ("epr.metadata_keys_max", "2")]).await;
    let _cm = PlayedCm::start(&bed, Cm::Makes).await;
    register(&bed, "app-v1", "e", json!({"a": 1})).await;
    let rest = bed.rest(ACME);
    for (body, word) in [
        (json!([]), "expected a map"),
        (json!({"a-b": 1}), "a-b"),
        (json!({"a": 1, "b": 1, "c": 1}), "epr.metadata_keys_max"),
        (json!({"a": "x".repeat(60)}), "epr.metadata_bytes_max"),
        (json!({"a": "\u{0}"}), "NUL"),
    ] {
        let message = rest.put(&path("metadata"), &body).await.refused(400);
        assert!(message.contains(word), "{body}: {message}");
    }
    rest.put(&path("metadata/a%20b"), &json!(1)).await.refused(400);
    let failing_test = json!([{"op": "remove", "path": "/a"}, {"op": "test", "path": "/b", "value": 1}]);
    for (body, status) in [
        (failing_test, 409),
        (json!([{"op": "remove", "path": "/b"}]), 409),
        (json!([{"op": "jump", "path": "/b"}]), 400),
        (json!({"op": "remove"}), 400),
        (json!([{"op": "replace", "path": "", "value": 1}]), 400),
        (json!(vec![json!({"op": "test", "path": "/a", "value": 1}); 257]), 400),
    ] {
        patch(&rest, body).await.refused(status);
    }
    assert_eq!(rest.get(&path("metadata")).await.expect(200), json!({"a": 1}));
    for at in ["metadata", "metadata/a", "metadata-keys"] {
        bed.rest(OTHER).get(&path(at)).await.refused(404);
    }
    bed.rest(OTHER).put(&path("metadata/a"), &json!(2)).await.refused(404);
    bed.stop().await;
}

#[tokio::test]
async fn concurrent_changes_lose_nothing() {
    let (bed, _tekton) = start(&[("epr.metadata_keys_max", "1000")]).await;
    let _cm = PlayedCm::start(&bed, Cm::Makes).await;
    register(&bed, "app-v1", "e", json!({"counter": []})).await;
    let mut events = Events::listen(&bed.client, UPDATED).await;
    let rest = bed.rest(ACME);
    let writers = (0..50).map(|writer| {
        let rest = rest.clone();
        tokio::spawn(async move {
            if writer % 2 == 0 {
                rest.put(&path(&format!("metadata/k{writer}")), &json!(writer)).await.expect(204);
            }
            patch(&rest, json!([{"op": "add", "path": "/counter/-", "value": writer}])).await.expect(200);
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let metadata = rest.get(&path("metadata")).await.expect(200);
    let mut counted: Vec<i64> =
        metadata["counter"].as_array().unwrap().iter().map(|item| item.as_i64().unwrap()).collect();
    counted.sort_unstable();
    assert_eq!(counted, (0..50).collect::<Vec<_>>());
    assert_eq!(metadata.as_object().unwrap().len(), 26);
    // Whoever hears of them in another order than they happened can put them in order.
    let mut times = BTreeSet::new();
    for _ in 0..75 {
        times.insert(events.next::<MetadataUpdatedEvent>().await.1.timestamp);
    }
    assert_eq!(times.len(), 75);
    bed.stop().await;
}

async fn keys(bed: &Testbed) -> Value {
    bed.rest(ACME).get("/epr/api/v1/applications/app/metadata-keys").await.expect(200)
}

#[tokio::test]
async fn the_keys_of_an_application_follow_its_endpoints() {
    let (bed, _tekton) = start(&[]).await;
    let _cm = PlayedCm::start(&bed, Cm::Makes).await;
    assert_eq!(keys(&bed).await, json!({}));
    register(&bed, "app-v1", "e", json!({"a": 1, "b": 1})).await;
    register(&bed, "app-v1", "f", json!({"b": 1})).await;
    register(&bed, "app-v2", "g", json!({"c": 1})).await;
    register(&bed, "more-v1", "h", json!({"z": 1})).await;
    assert_eq!(keys(&bed).await, json!({"app-v1": ["a", "b"], "app-v2": ["c"]}));
    let rest = bed.rest(ACME);
    rest.put(&path("metadata"), &json!({"b": 2, "d": 1})).await.expect(200);
    assert_eq!(keys(&bed).await, json!({"app-v1": ["b", "d"], "app-v2": ["c"]}));
    rest.put(&path("app-version"), &json!({"name": "app-v2"})).await.expect(200);
    assert_eq!(keys(&bed).await, json!({"app-v1": ["b"], "app-v2": ["b", "c", "d"]}));
    rest.delete(&format!("{ENDPOINTS}/f")).await.expect(204);
    assert_eq!(keys(&bed).await, json!({"app-v2": ["b", "c", "d"]}));
    bed.rest(OTHER).get("/epr/api/v1/applications/app/metadata-keys").await.refused(404);
    bed.stop().await;
}
