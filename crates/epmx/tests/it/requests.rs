//! The requests of 10/EPMP, as devices send them.

use serde_json::json;

use crate::bed::{Bed, some_metadata};

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_values_are_read() {
    let bed = Bed::start(json!({}), some_metadata()).await;
    for payload in ["", "{}", "nonsense"] {
        assert_eq!(bed.ask("/get/keys", payload).await, json!(["description", "location", "name"]));
    }
    for payload in ["", "{}", r#"{"keys": []}"#] {
        assert_eq!(bed.ask("/get", payload).await, some_metadata());
    }
    assert_eq!(bed.ask("/get", r#"{"keys": ["name", "none"]}"#).await, json!({"name": "Device 1"}));
    let reason = bed.refused(400, "/get", r#"{"keys": ["a b"]}"#).await;
    assert!(reason.contains(r#""a b" is no metadata key"#), "{reason}");
    assert!(bed.with(|endpoint| endpoint.patches.is_empty()));
    bed.testbed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_update_leaves_what_was_sent_and_nothing_else() {
    let bed = Bed::start(json!({}), some_metadata()).await;
    let sent = json!({"name": "Device 1", "location": {"latitude": 27.1, "longitude": -81.0}, "vendorId": 2});
    // A repeat after a lost receipt changes nothing.
    for _ in 0..2 {
        bed.change("/update", &sent.to_string()).await;
        assert_eq!(bed.metadata(), sent);
    }
    for (payload, part) in
        [("{}", "one metadata key at least"), ("[]", "a JSON object"), (r#"{"a-b": 1}"#, "a-b")]
    {
        assert!(bed.refused(400, "/update", payload).await.contains(part), "{payload}");
    }
    assert_eq!(bed.metadata(), sent);
    bed.testbed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partial_update_leaves_the_other_keys() {
    let bed = Bed::start(json!({}), some_metadata()).await;
    for _ in 0..2 {
        bed.change("/update/keys", r#"{"name": null, "vendorId": 2}"#).await;
        let mut expected = some_metadata();
        expected["name"] = json!(null);
        expected["vendorId"] = json!(2);
        assert_eq!(bed.metadata(), expected);
    }
    bed.testbed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_deleted_also_when_they_are_gone_already() {
    let bed = Bed::start(json!({}), some_metadata()).await;
    bed.change("/delete/keys", r#"["location", "areaId"]"#).await;
    assert_eq!(bed.metadata(), json!({"name": "Device 1", "description": "The first sensor"}));
    bed.change("/delete/keys", r#"["location", "areaId"]"#).await;
    assert_eq!(bed.with(|endpoint| endpoint.patches.len()), 1, "nothing to do, nothing asked for");
    assert!(bed.refused(400, "/delete/keys", r#"["name", "name"]"#).await.contains("named twice"));
    assert!(bed.refused(400, "/delete/keys", "[]").await.contains("one metadata key at least"));
    bed.testbed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_no_other_paths_and_no_other_endpoints() {
    let bed = Bed::start(json!({}), some_metadata()).await;
    for path in ["/get/", "/update/values", "", "/delete"] {
        assert!(bed.refused(404, path, "{}").await.contains("'/update/keys'"), "{path}");
    }
    for (path, payload) in
        [("/get", ""), ("/get/keys", ""), ("/update", r#"{"a": 1}"#), ("/update/keys", r#"{"a": 1}"#)]
    {
        let (status, _, payload) = bed.send_as("other", path, payload, 10_000).await;
        assert_eq!((status, payload), (404, None), "{path}");
    }
    bed.testbed.stop().await;
}
