//! MQTT 3.1.1: receipts, errors, subscriptions, the end of connections.

use std::time::Duration;

use testkit::eventually;

use crate::client::{Client, Packet};
use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_comes_only_after_the_extension_has_answered() {
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    let mut client = Client::connect(gate.mqtt, 4, "c").await;
    let id = client.publish("kp1/demo-v1/echo/t1/gate/7", "one", 1).await;
    let data = world.extension.has("one").await;
    assert_eq!((data.endpoint_id.as_deref(), data.app_version_name.as_str()), (Some("e1"), "demo-v1"));
    assert_eq!((data.resource_path.as_str(), data.request_id), ("/gate", Some(7)));
    assert!((9_000..=10_000).contains(&data.timeout), "{}", data.timeout);
    // The extension has the message and has not answered: pings are, and nothing else.
    assert!(client.is_silent().await);
    world.extension.gate.notify_one();
    assert_eq!(client.acknowledged(id).await, 0);
    assert_eq!(client.message("kp1/demo-v1/echo/t1/gate/7/status").await, "one");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_request_id_there_is_a_receipt_and_no_response() {
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    let mut client = Client::connect(gate.mqtt, 4, "c").await;
    let id = client.publish("kp1/demo-v1/echo/t1/json", "x", 1).await;
    assert_eq!(client.acknowledged(id).await, 0);
    assert!(client.is_silent().await);
    // QoS 0 has no receipt, and a request id gets its response all the same.
    client.publish("kp1/demo-v1/echo/t1/json/0", "y", 0).await;
    match client.next().await {
        Packet::Publish { topic, payload, qos, .. } => {
            assert_eq!(
                (topic.as_str(), payload.as_slice(), qos),
                ("kp1/demo-v1/echo/t1/json/0/status", &b"y"[..], 0)
            );
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_message_is_acknowledged_and_told_of() {
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    let mut client = Client::connect(gate.mqtt, 4, "c").await;
    let cases = [
        ("kp1/demo-v1/echo/t1/refuse/1", 400, "bad sample"),
        ("kp1/demo-v1/echo/t1/refuse", 400, "bad sample"),
        ("kp1/nothing-v1/echo/t1/json/1", 404, "application version"),
        ("kp1/demo-v1/nothing/t1/json/1", 404, "extension 'nothing'"),
        ("kp1/demo-v1/echo/wrong/json/1", 401, "token"),
        ("kp1/demo-v1/echo/suspended/json/1", 403, "suspended"),
        ("kp1/closed-v1/echo/t1/json/1", 403, "may not use"),
        ("some/topic", 404, "kp1/"),
    ];
    for (topic, status, words) in cases {
        let id = client.publish(topic, "{}", 1).await;
        assert_eq!(client.acknowledged(id).await, 0, "{topic}");
        let body = client.message(&format!("{topic}/error")).await;
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["statusCode"], status, "{topic}: {body}");
        assert!(body["reasonPhrase"].as_str().unwrap().contains(words), "{topic}: {body}");
    }
    assert_eq!(world.extension.count().await, 2, "only what reached the extension was tried, and once each");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_delivered_is_not_acknowledged_and_ends_the_connection() {
    let world = World::new().await;
    let gate = world.gate(&[("kpc.deadline_ms", "700")]).await;
    for (path, status) in [("echo/t1/silent", 504), ("dead/t1/json", 503), ("echo/t1/down", 503)] {
        let mut client = Client::connect(gate.mqtt, 4, "").await;
        client.publish(&format!("kp1/demo-v1/{path}/1"), "x", 1).await;
        let error = client.message(&format!("kp1/demo-v1/{path}/1/error")).await;
        assert!(error.contains(&format!("\"statusCode\":{status}")), "{error}");
        assert_eq!(client.next_or_end().await, None, "{path}: no PUBACK, and the end");
    }
    // With QoS 0 there is nothing to withhold.
    let mut client = Client::connect(gate.mqtt, 4, "").await;
    client.publish("kp1/demo-v1/dead/t1/json", "x", 0).await;
    assert!(client.message("kp1/demo-v1/dead/t1/json/error").await.contains("503"));
    assert!(client.is_silent().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_passing_failure_is_tried_again() {
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    world.extension.failures.store(2, std::sync::atomic::Ordering::SeqCst);
    let mut client = Client::connect(gate.mqtt, 4, "c").await;
    let id = client.publish("kp1/demo-v1/echo/t1/flaky/1", "x", 1).await;
    assert_eq!(client.acknowledged(id).await, 0);
    assert_eq!(client.message("kp1/demo-v1/echo/t1/flaky/1/status").await, "x");
    assert_eq!(world.extension.count().await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_have_been_done_is_not_repeated_and_not_acknowledged() {
    let world = World::new().await;
    let gate = world.gate(&[("kpc.deadline_ms", "2000")]).await;
    // Request ids are statuses, where the extension answers with one.
    let paths =
        ["answer/500", "answer/501", "answer/502", "answer/504", "answer/507", "garbled/1", "silent/1"];
    for path in paths {
        let mut client = Client::connect(gate.mqtt, 4, "").await;
        let topic = format!("kp1/demo-v1/echo/t1/{path}");
        client.publish(&topic, path, 1).await;
        let error = client.message(&format!("{topic}/error")).await;
        assert!(error.contains("\"statusCode\":5"), "{path}: {error}");
        assert_eq!(client.next_or_end().await, None, "{path}: no PUBACK, and the end");
        let received = world.extension.received.lock().await;
        let count = received.iter().filter(|data| data.payload == path.as_bytes()).count();
        assert_eq!(count, 1, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn quality_of_service_2_is_delivered_once() {
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    let mut client = Client::connect(gate.mqtt, 4, "c").await;
    let id = client.publish("kp1/demo-v1/echo/t1/json/5", "twice", 2).await;
    let received = client.wait(|packet| matches!(packet, Packet::PubRec { .. })).await;
    assert_eq!(received, Packet::PubRec { id, code: 0 });
    client.release(id).await;
    client.wait(|packet| *packet == Packet::PubComp { id }).await;
    // The response comes with the same quality.
    let response = client.wait(|packet| matches!(packet, Packet::Publish { .. })).await;
    let Packet::Publish { qos: 2, id, .. } = response else { panic!("{response:?}") };
    client.received(id).await;
    client.wait(|packet| *packet == Packet::PubRel { id }).await;
    client.complete(id).await;
    assert!(client.is_silent().await);
    assert_eq!(world.extension.count().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_at_once_has_published() {
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    let mut client = Client::connect(gate.mqtt, 4, "c").await;
    for number in 0..500 {
        client.publish("kp1/demo-v1/echo/t1/json", format!("m{number}"), 0).await;
    }
    client.disconnect().await;
    eventually("every message has come", Duration::from_secs(10), async || {
        (world.extension.count().await == 500).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_topics_of_a_valid_token_can_be_subscribed_to() {
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    let mut client = Client::connect(gate.mqtt, 4, "c").await;
    let filters = [
        "kp1/demo-v1/echo/t1/json/+/status",
        "kp1/demo-v1/+/t1/#",
        "kp1/demo-v1/echo/wrong/#",
        "kp1/demo-v1/echo/+/json",
        "kp1/+/echo/t1/#",
        "kp1/#",
        "#",
        "$share/group/kp1/demo-v1/echo/t1/#",
        "kp1/nothing-v1/echo/t1/#",
    ];
    let codes = client.subscribe(&filters, 1).await;
    assert_eq!(codes, [1, 1, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80]);
    assert_eq!(client.subscribe(&["kp1/demo-v1/echo/t1/json"], 2).await, [2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_reaches_the_asker_once_and_other_subscribers_of_its_endpoint() {
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    let mut asker = Client::connect(gate.mqtt, 4, "asker").await;
    let mut listener = Client::connect(gate.mqtt, 4, "listener").await;
    let mut stranger = Client::connect(gate.mqtt, 4, "stranger").await;
    // Another token of the same endpoint; topics come with it.
    assert_eq!(listener.subscribe(&["kp1/demo-v1/echo/t1b/#"], 0).await, [0]);
    assert_eq!(asker.subscribe(&["kp1/demo-v1/echo/t1/#"], 1).await, [1]);
    assert_eq!(stranger.subscribe(&["kp1/demo-v1/echo/t2/#"], 1).await, [1]);
    let id = asker.publish("kp1/demo-v1/echo/t1/json/3", "x", 1).await;
    assert_eq!(asker.acknowledged(id).await, 0);
    assert_eq!(asker.message("kp1/demo-v1/echo/t1/json/3/status").await, "x");
    assert_eq!(listener.message("kp1/demo-v1/echo/t1b/json/3/status").await, "x");
    asker.publish("kp1/demo-v1/echo/t1/refuse", "x", 0).await;
    assert!(listener.message("kp1/demo-v1/echo/t1b/refuse/error").await.contains("bad sample"));
    listener.unsubscribe("kp1/demo-v1/echo/t1b/#").await;
    let id = asker.publish("kp1/demo-v1/echo/t1/json/4", "x", 1).await;
    assert_eq!(asker.acknowledged(id).await, 0);
    assert_eq!(asker.message("kp1/demo-v1/echo/t1/json/4/status").await, "x");
    assert!(listener.is_silent().await && stranger.is_silent().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_packet_ends_only_its_connection() {
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    let mut good = Client::connect(gate.mqtt, 4, "good").await;
    for bytes in [
        &[0xFF_u8, 0xFF, 0xFF, 0xFF, 0xFF][..],
        &[0x30, 5, 0, 3, b'a', b'+', b'b'],
        &[0x10, 2, 0, 0],
        &[0, 0],
    ] {
        let mut bad = Client::connect(gate.mqtt, 4, "").await;
        bad.send(bytes).await;
        assert_eq!(bad.next_or_end().await, None, "{bytes:?}");
    }
    assert!(good.is_silent().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retained_message_is_handled_like_any_other() {
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    let mut client = Client::connect(gate.mqtt, 4, "c").await;
    let topic = b"kp1/demo-v1/echo/t1/json/1";
    client.send(&[&[0x31, 29, 0, 26], topic.as_slice(), b"x"].concat()).await;
    assert_eq!(client.message("kp1/demo-v1/echo/t1/json/1/status").await, "x");
    let mut later = Client::connect(gate.mqtt, 4, "later").await;
    assert_eq!(later.subscribe(&["kp1/demo-v1/echo/t1/#"], 0).await, [0]);
    assert!(later.is_silent().await, "nothing is kept for later subscribers");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_client_is_disconnected_after_its_keep_alive() {
    let world = World::new().await;
    let gate = world.gate(&[("kpc.mqtt.connect_timeout_s", "1")]).await;
    let mut client = Client::open(gate.mqtt, 4).await;
    client.send(b"\x10\x0D\x00\x04MQTT\x04\x02\x00\x01\x00\x01c").await;
    assert_eq!(client.next().await, Packet::ConnAck { code: 0, properties: vec![] });
    assert_eq!(client.next_or_end().await, None);
    // And one that says nothing at all, or only half of it.
    for beginning in [&b""[..], b"\x10\x0D\x00\x04MQ"] {
        let mut client = Client::open(gate.mqtt, 4).await;
        client.send(beginning).await;
        assert_eq!(client.next_or_end().await, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_id_has_one_connection() {
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    for round in 0..8 {
        let mut older = Client::connect(gate.mqtt, 4, "same").await;
        let mut newer = Client::connect(gate.mqtt, 4, "same").await;
        assert_eq!(older.next_or_end().await, None, "round {round}");
        assert!(newer.is_silent().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extension_is_known_as_soon_as_it_has_registered() {
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    let mut client = Client::connect(gate.mqtt, 4, "c").await;
    client.publish("kp1/demo-v1/fresh/t1/json/1", "x", 1).await;
    assert!(client.message("kp1/demo-v1/fresh/t1/json/1/error").await.contains("404"));
    world.register("fresh", true).await;
    let mut request = 1;
    eventually("the extension is known", Duration::from_secs(10), async || {
        request += 1;
        client.publish(&format!("kp1/demo-v1/fresh/t1/json/{request}"), "x", 0).await;
        // Nobody serves it, so it is tried until the deadline; known means that no 404 comes at once.
        client.is_silent().await.then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_no_extension_has_registered_none_is_unknown() {
    let world = World::new().await;
    let bucket = extension::bucket(&world.client).await.unwrap();
    for name in ["echo", "dead", "anyone"] {
        bucket.delete(name).await.unwrap();
    }
    let gate = world.gate(&[]).await;
    let mut client = Client::connect(gate.mqtt, 4, "c").await;
    let id = client.publish("kp1/demo-v1/echo/t1/json", "x", 1).await;
    assert!(client.is_silent().await);
    world.register("echo", true).await;
    assert_eq!(client.acknowledged(id).await, 0);
    world.extension.has("x").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extension_without_endpoints_gets_no_token() {
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    let mut client = Client::connect(gate.mqtt, 4, "c").await;
    let id = client.publish("kp1/demo-v1/anyone/json/9", "x", 1).await;
    assert_eq!(client.acknowledged(id).await, 0);
    assert_eq!(client.message("kp1/demo-v1/anyone/json/9/status").await, "x");
    let data = world.extension.has("x").await;
    assert_eq!((data.endpoint_id, data.resource_path.as_str()), (None, "/json"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_stops_answers_what_it_has_taken() {
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    let mut client = Client::connect(gate.mqtt, 4, "c").await;
    let id = client.publish("kp1/demo-v1/echo/t1/gate/1", "last", 1).await;
    world.extension.has("last").await;
    let stopping = tokio::spawn(gate.platform.stop());
    // The gateway waits for the extension's answer.
    tokio::task::yield_now().await;
    world.extension.gate.notify_one();
    assert_eq!(client.acknowledged(id).await, 0);
    assert_eq!(client.message("kp1/demo-v1/echo/t1/gate/1/status").await, "last");
    assert_eq!(client.next_or_end().await, None);
    stopping.await.unwrap().unwrap();
}
