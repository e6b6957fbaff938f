//! MQTT 5: reason codes, properties, request and response.

use crate::client::{Client, Packet, text};
use crate::world::World;

fn byte(properties: &[(u8, Vec<u8>)], id: u8) -> Option<u8> {
    properties.iter().find(|(found, _)| *found == id).map(|(_, value)| value[0])
}

#[tokio::test(flavor = "multi_thread")]
async fn the_connack_announces_what_the_gateway_is_not() {
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    let (_client, packet) = Client::try_connect(gate.mqtt, 5, "", None).await;
    let Packet::ConnAck { code: 0, properties } = packet else { panic!("{packet:?}") };
    // Retain, shared subscriptions, subscription identifiers: not available.
    assert_eq!([0x25, 0x2A, 0x29].map(|id| byte(&properties, id)), [Some(0); 3]);
    // Wildcards are, and QoS 2 is, which absence says; a session ends with its connection.
    assert!(matches!(byte(&properties, 0x28), None | Some(1)) && byte(&properties, 0x24).is_none());
    assert!(properties.contains(&(0x11, vec![0; 4])), "{properties:?}");
    assert!(properties.contains(&(0x21, 64_u16.to_be_bytes().to_vec())), "{properties:?}");
    let assigned = properties.iter().find(|(id, _)| *id == 0x12);
    assert!(assigned.is_some_and(|(_, id)| id.len() > 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_negative_acknowledgement_says_why() {
    let world = World::new().await;
    let gate = world.gate(&[("kpc.deadline_ms", "500")]).await;
    let mut client = Client::connect(gate.mqtt, 5, "c").await;
    let cases = [
        ("kp1/demo-v1/echo/t1/refuse/1", 0x99, "bad sample"),
        ("kp1/demo-v1/nothing/t1/json/1", 0x90, "nothing"),
        ("kp1/demo-v1/echo/wrong/json/1", 0x87, "token"),
        ("kp1/demo-v1/echo/suspended/json/1", 0x87, "token"),
        ("some/topic", 0x90, "kp1/"),
        ("kp1/demo-v1/dead/t1/json/1", 0x80, "not running"),
        ("kp1/demo-v1/echo/t1/silent/1", 0x80, "did not answer"),
        ("kp1/demo-v1/echo/t1/garbled/1", 0x80, "cannot be read"),
        ("kp1/demo-v1/echo/t1/answer/507", 0x80, "as asked"),
    ];
    for (topic, expected, words) in cases {
        let id = client.publish(topic, "x", 1).await;
        let ack = client.wait(|packet| matches!(packet, Packet::PubAck { .. })).await;
        let Packet::PubAck { id: acknowledged, code, reason } = ack else { panic!("{ack:?}") };
        assert_eq!((acknowledged, code), (id, expected), "{topic}: {reason}");
        assert!(reason.contains(words), "{topic}: {reason}");
        assert!(client.message(&format!("{topic}/error")).await.contains(words));
    }
    assert!(client.is_silent().await, "the connection stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_topic_gets_the_answer_beside_the_1kp_topic() {
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    let mut client = Client::connect(gate.mqtt, 5, "c").await;
    let request = [text(0x08, "replies/here"), text(0x09, "number 1")];
    client.publish_with("kp1/demo-v1/echo/t1/json/1", "x", 1, &request).await;
    assert_eq!(client.message("kp1/demo-v1/echo/t1/json/1/status").await, "x");
    let answer = client
        .wait(|packet| matches!(packet, Packet::Publish { topic, .. } if topic == "replies/here"))
        .await;
    let Packet::Publish { payload, properties, .. } = answer else { panic!("{answer:?}") };
    assert_eq!((payload.as_slice(), properties), (&b"x"[..], vec![(0x09, b"number 1".to_vec())]));
    // Without a request id the response topic alone gets it; errors come there too.
    client.publish_with("kp1/demo-v1/echo/t1/json", "y", 0, &request).await;
    assert_eq!(client.message("replies/here").await, "y");
    client.publish_with("kp1/demo-v1/echo/t1/refuse", "z", 0, &request).await;
    assert!(client.message("replies/here").await.contains("bad sample"));
    // Nobody else hears of it.
    assert!(client.message("kp1/demo-v1/echo/t1/refuse/error").await.contains("bad sample"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_topic_that_is_the_1kp_topic_gets_the_answer_once() {
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    let mut client = Client::connect(gate.mqtt, 5, "c").await;
    for (path, outcome, payload) in [
        ("json/1", "status", "x"),
        ("json", "status", "x"),
        ("refuse/2", "error", "bad sample"),
        ("refuse", "error", "bad sample"),
    ] {
        let topic = format!("kp1/demo-v1/echo/t1/{path}");
        let response_topic = format!("{topic}/{outcome}");
        client.subscribe(&[&response_topic], 1).await;
        let request = [text(0x08, &response_topic), text(0x09, path)];
        let id = client.publish_with(&topic, "x", 1, &request).await;
        client.acknowledged(id).await;
        let answer = client.wait(|packet| matches!(packet, Packet::Publish { .. })).await;
        let Packet::Publish { topic, payload: answered, properties, id, .. } = answer else {
            panic!("{answer:?}")
        };
        assert_eq!((&topic, properties), (&response_topic, vec![(0x09, path.as_bytes().to_vec())]));
        assert!(String::from_utf8(answered).unwrap().contains(payload), "{path}");
        client.ack(id).await;
        assert!(client.is_silent().await, "{path}");
    }
    // An error for one who waits on `/status` comes there too, and where 1/KP has it.
    let request = [text(0x08, "kp1/demo-v1/echo/t1/refuse/3/status"), text(0x09, "3")];
    client.publish_with("kp1/demo-v1/echo/t1/refuse/3", "x", 0, &request).await;
    assert!(client.message("kp1/demo-v1/echo/t1/refuse/3/status").await.contains("bad sample"));
    assert!(client.message("kp1/demo-v1/echo/t1/refuse/3/error").await.contains("bad sample"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_message_expiry_shortens_the_deadline() {
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    let mut client = Client::connect(gate.mqtt, 5, "c").await;
    let expiry = [(0x02, 1_u32.to_be_bytes().to_vec())];
    let id = client.publish_with("kp1/demo-v1/echo/t1/silent/1", "soon", 1, &expiry).await;
    let data = world.extension.has("soon").await;
    assert!((1..=1_000).contains(&data.timeout), "{}", data.timeout);
    assert_eq!(client.acknowledged(id).await, 0x80);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_is_denied_with_its_reason() {
    let world = World::new().await;
    let gate = world.gate(&[("kpc.limits.subscriptions_per_connection", "1")]).await;
    let mut client = Client::connect(gate.mqtt, 5, "c").await;
    let filters = [
        "kp1/demo-v1/echo/t1/#",
        "kp1/demo-v1/echo/t1/json",
        "kp1/demo-v1/echo/wrong/#",
        "kp1/#",
        "$share/group/kp1/demo-v1/echo/t1/#",
    ];
    assert_eq!(client.subscribe(&filters, 1).await, [1, 0x97, 0x87, 0x8F, 0x9E]);
    client.unsubscribe("kp1/demo-v1/echo/t1/#").await;
    assert_eq!(client.subscribe(&["kp1/demo-v1/echo/t1/json"], 0).await, [0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_over_connection_is_told_so() {
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    let mut older = Client::connect(gate.mqtt, 5, "same").await;
    let mut newer = Client::connect(gate.mqtt, 4, "same").await;
    assert_eq!(older.next_or_end().await, Some(Packet::Disconnect { code: 0x8E }));
    assert_eq!(older.next_or_end().await, None);
    assert!(newer.is_silent().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn quality_of_service_2_can_be_refused() {
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    let mut client = Client::connect(gate.mqtt, 5, "c").await;
    for _ in 0..100 {
        let id = client.publish("kp1/demo-v1/echo/t1/refuse", "x", 2).await;
        client.wait(|packet| *packet == Packet::PubRec { id, code: 0x99 }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_stops_says_so() {
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    let mut client = Client::connect(gate.mqtt, 5, "c").await;
    gate.platform.stop().await.unwrap();
    assert_eq!(client.next_or_end().await, Some(Packet::Disconnect { code: 0x8B }));
}
