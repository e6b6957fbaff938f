//! Connectivity events, revocations.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use ism::Record as _;
use ism::ecap::{EP_TOKEN_REVOKED, EndpointTokenRevokedEvent};
use ism::elce::{CONNECTED, ConnectedEvent, DISCONNECTED, DisconnectedEvent};
use runtime::now_ms;
use testkit::eventually;

use crate::client::{Client, Packet};
use crate::http::post;
use crate::world::World;

/// How long the gateway gathers what one event tells.
const GATHERED: Duration = Duration::from_millis(20);

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_come_and_go_in_one_event_for_each_connection() {
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    let mut connected = world.listen(CONNECTED.of_any()).await;
    let mut disconnected = world.listen(DISCONNECTED.of_any()).await;
    // Over HTTP no endpoint comes online; the gateway knows the tokens after that and need not ask.
    for number in 1..=20 {
        assert_eq!(post(&gate, &format!("/kp1/demo-v1/echo/t{number}/json"), "x").await.status(), 200);
    }
    let mut client = Client::connect(gate.mqtt, 4, "c").await;
    let begin = Instant::now();
    for number in 1..=20 {
        client.publish(&format!("kp1/demo-v1/echo/t{number}/json"), "x", 0).await;
    }
    let (mut seen, mut events) = (0, 0);
    while seen < 20 {
        let event = ConnectedEvent::decode(&connected.next().await.unwrap().payload).unwrap();
        assert!(event.endpoints.values().all(|version| version == "demo-v1"));
        assert_eq!(event.originator_replica_id, gate.platform.services()[0].replica().as_str());
        seen += event.endpoints.len();
        events += 1;
    }
    // One, unless the machine takes longer for 20 messages than the gateway gathers; then one for each such time.
    assert!(GATHERED * events <= begin.elapsed(), "{events} events in {:?}", begin.elapsed());
    client.disconnect().await;
    let event = DisconnectedEvent::decode(&disconnected.next().await.unwrap().payload).unwrap();
    assert_eq!(event.endpoints.len(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_ends_its_sessions_at_once() {
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    let mut client = Client::connect(gate.mqtt, 5, "c").await;
    let mut other = Client::connect(gate.mqtt, 5, "d").await;
    for (client, topic) in
        [(&mut client, "kp1/demo-v1/echo/t1/json"), (&mut other, "kp1/demo-v1/echo/t1b/json")]
    {
        let id = client.publish(topic, "x", 1).await;
        assert_eq!(client.acknowledged(id).await, 0);
    }
    world.revoked.store(true, std::sync::atomic::Ordering::SeqCst);
    let event = EndpointTokenRevokedEvent {
        correlation_id: "r".to_owned(),
        timestamp: now_ms(),
        app_name: "demo".to_owned(),
        endpoint_id: "e1".to_owned(),
        token_ids: vec!["t1".to_owned()],
        originator_replica_id: "cm-1".to_owned(),
        ..EndpointTokenRevokedEvent::default()
    };
    let cm = ids::InstanceName::parse("cm").unwrap();
    world.client.publish(EP_TOKEN_REVOKED.of(&cm), event.encode()).await.unwrap();
    assert_eq!(client.next_or_end().await, Some(Packet::Disconnect { code: 0x87 }));
    let mut again = Client::connect(gate.mqtt, 5, "c").await;
    let id = again.publish("kp1/demo-v1/echo/t1/json", "x", 1).await;
    assert_eq!(again.acknowledged(id).await, 0x87);
    // The endpoint's other token is still known, and its session lives.
    let id = other.publish("kp1/demo-v1/echo/t1b/json", "x", 1).await;
    assert_eq!(other.acknowledged(id).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_messages_ask_for_their_token_once() {
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    let mut client = Client::connect(gate.mqtt, 4, "c").await;
    let questions = || world.token_questions.load(std::sync::atomic::Ordering::SeqCst);
    for _ in 0..50 {
        client.publish("kp1/demo-v1/echo/t1/json", "x", 0).await;
        client.publish("kp1/demo-v1/echo/wrong/json", "x", 0).await;
    }
    eventually("all messages are answered", Duration::from_secs(10), async || {
        (world.extension.count().await == 50).then_some(())
    })
    .await;
    for _ in 0..50 {
        client.message("kp1/demo-v1/echo/wrong/json/error").await;
    }
    assert_eq!(questions(), 2);
}
