//! What devices are told when the endpoint register refuses, is slow or is away, and when others change the same.

use serde_json::json;

use crate::bed::Bed;

const CHANGES: [(&str, &str); 3] =
    [("/update", r#"{"a": 2}"#), ("/update/keys", r#"{"a": 2}"#), ("/delete/keys", r#"["a"]"#)];

#[tokio::test(flavor = "multi_thread")]
async fn no_change_of_others_is_undone() {
    let bed = Bed::start(json!({"metadata-keys": {"a": {"write-enabled": true}}}), json!({"a": 1})).await;
    bed.with(|endpoint| endpoint.interference = vec![("b".to_owned(), json!(1)), ("b".to_owned(), json!(2))]);
    bed.change("/update", r#"{"a": 2}"#).await;
    assert_eq!(bed.metadata(), json!({"a": 2, "b": 2}), "the hidden key has its newest value");
    assert_eq!(bed.with(|endpoint| endpoint.patches.len()), 3);
    bed.with(|endpoint| endpoint.interference = vec![("b".to_owned(), json!(3)); 3]);
    let reason = bed.refused(503, "/delete/keys", r#"["a"]"#).await;
    assert!(reason.contains("epmx.update_attempts_max"), "{reason}");
    assert_eq!(bed.metadata(), json!({"a": 2, "b": 3}));
    bed.testbed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_of_the_register_reach_the_device() {
    let bed = Bed::start(json!({}), json!({"a": 1})).await;
    for refusal in
        [(400, "too many keys"), (413, "too large"), (500, "broken"), (503, "no database"), (504, "lost")]
    {
        bed.with(|endpoint| endpoint.refusal = Some(refusal));
        for (path, payload) in CHANGES {
            assert_eq!(bed.refused(refusal.0, path, payload).await, refusal.1);
        }
    }
    assert_eq!(bed.metadata(), json!({"a": 1}));
    bed.testbed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_register_nothing_is_done_and_the_device_is_told_so() {
    let mut bed = Bed::start(json!({}), json!({"a": 1})).await;
    bed.epr.clear();
    // The server forgets the subscriptions a moment later.
    testkit::eventually("the register is away", testbed::PATIENCE, async || {
        (bed.send_as("e", "/get", "", 500).await.0 == 503).then_some(())
    })
    .await;
    for (path, payload) in CHANGES {
        assert!(bed.refused(503, path, payload).await.contains("endpoint register"));
    }
    bed.testbed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_register_that_is_slow_leaves_it_open() {
    let mut bed = Bed::start(json!({}), json!({"a": 1})).await;
    bed.epr.clear();
    // It listens, and never answers.
    let _silent = bed.testbed.client.subscribe("kaa.v1.service.epr.epmmp.*").await.unwrap();
    bed.testbed.client.flush().await.unwrap();
    testkit::eventually("the silent register is asked", testbed::PATIENCE, async || {
        (bed.send_as("e", "/update/keys", r#"{"a": 2}"#, 300).await.0 == 504).then_some(())
    })
    .await;
    bed.testbed.stop().await;
}
