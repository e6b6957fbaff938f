//! White lists and read-only keys.

use serde_json::json;

use crate::bed::Bed;

fn white_list() -> serde_json::Value {
    json!({"metadata-keys": {"name": {"write-enabled": true}, "area": {"write-enabled": true}, "serial": {"write-enabled": false}}})
}

fn metadata() -> serde_json::Value {
    json!({"name": "n", "area": 1, "serial": "s-1", "owner": "somebody"})
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_see_only_what_is_listed() {
    let bed = Bed::start(white_list(), metadata()).await;
    assert_eq!(bed.ask("/get/keys", "").await, json!(["area", "name", "serial"]));
    assert_eq!(bed.ask("/get", "").await, json!({"name": "n", "area": 1, "serial": "s-1"}));
    assert_eq!(bed.ask("/get", r#"{"keys": ["serial"]}"#).await, json!({"serial": "s-1"}));
    let reason = bed.refused(403, "/get", r#"{"keys": ["name", "owner"]}"#).await;
    assert!(reason.contains(r#""owner""#), "{reason}");
    bed.testbed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_change_only_what_is_writable() {
    let bed = Bed::start(white_list(), metadata()).await;
    for (path, payload, key) in [
        ("/update", r#"{"name": "m", "serial": "s-2"}"#, "serial"),
        ("/update/keys", r#"{"serial": "s-1"}"#, "serial"),
        ("/update/keys", r#"{"name": "m", "owner": "me"}"#, "owner"),
        ("/delete/keys", r#"["name", "serial"]"#, "serial"),
        ("/delete/keys", r#"["none"]"#, "none"),
    ] {
        let reason = bed.refused(403, path, payload).await;
        assert!(reason.contains(&format!("{key:?}")), "{path} {payload}: {reason}");
    }
    assert_eq!(bed.metadata(), metadata());
    bed.change("/update", r#"{"name": "m"}"#).await;
    // `area` was writable and not named; what devices cannot write stays.
    assert_eq!(bed.metadata(), json!({"name": "m", "serial": "s-1", "owner": "somebody"}));
    bed.change("/delete/keys", r#"["name"]"#).await;
    assert_eq!(bed.metadata(), json!({"serial": "s-1", "owner": "somebody"}));
    bed.testbed.stop().await;
}
