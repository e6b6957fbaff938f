//! What a client may not do, and that it hurts nobody else.

use crate::client::{Client, Packet};
use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_over_the_limit_is_refused_and_one_far_above_ends_the_connection() {
    let world = World::new().await;
    let gate = world.gate(&[("kpc.limits.payload_bytes", "100000")]).await;
    let mut client = Client::connect(gate.mqtt, 5, "c").await;
    let id = client.publish("kp1/demo-v1/echo/t1/json/1", vec![b'x'; 100_000], 1).await;
    assert_eq!(client.acknowledged(id).await, 0);
    assert_eq!(client.message("kp1/demo-v1/echo/t1/json/1/status").await.len(), 100_000);
    let id = client.publish("kp1/demo-v1/echo/t1/json/2", vec![b'x'; 100_001], 1).await;
    assert_eq!(client.acknowledged(id).await, 0x97);
    let error = client.message("kp1/demo-v1/echo/t1/json/2/error").await;
    assert!(error.contains("413") && error.contains("(kpc.limits.payload_bytes)"), "{error}");
    client.publish("kp1/demo-v1/echo/t1/json/3", vec![b'x'; 400_000], 1).await;
    assert_eq!(client.next_or_end().await, Some(Packet::Disconnect { code: 0x95 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_messages_are_refused_and_told_of() {
    let world = World::new().await;
    let gate = world.gate(&[("kpc.limits.messages_per_second_per_connection", "5")]).await;
    let mut client = Client::connect(gate.mqtt, 5, "c").await;
    let mut codes = Vec::new();
    for _ in 0..30 {
        let id = client.publish("kp1/demo-v1/echo/t1/json", "x", 1).await;
        codes.push(client.acknowledged(id).await);
    }
    assert_eq!(codes.iter().take_while(|code| **code == 0).count(), 10);
    assert!(codes.contains(&0x97));
    assert!(client.message("kp1/demo-v1/echo/t1/json/error").await.contains("429"));
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_endpoints_or_connections_are_refused() {
    let world = World::new().await;
    let limits = [("kpc.limits.endpoints_per_connection", "2"), ("kpc.limits.connections_per_address", "2")];
    let gate = world.gate(&limits).await;
    let mut client = Client::connect(gate.mqtt, 5, "c").await;
    for (token, code) in [("t1", 0), ("t2", 0), ("t3", 0x97), ("t1", 0)] {
        let id = client.publish(&format!("kp1/demo-v1/echo/{token}/json"), "x", 1).await;
        assert_eq!(client.acknowledged(id).await, code, "{token}");
    }
    let _second = Client::connect(gate.mqtt, 4, "d").await;
    let (_, refused) = Client::try_connect(gate.mqtt, 4, "e", None).await;
    assert!(matches!(refused, Packet::ConnAck { code: 3, .. }), "{refused:?}");
    let (_, refused) = Client::try_connect(gate.mqtt, 5, "f", None).await;
    assert!(matches!(refused, Packet::ConnAck { code: 0x97, .. }), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_disconnected_and_hurts_nobody() {
    let world = World::new().await;
    let gate = world.gate(&[("kpc.mqtt.workers", "1")]).await;
    let mut slow = Client::connect(gate.mqtt, 4, "slow").await;
    assert_eq!(slow.subscribe(&["kp1/demo-v1/echo/t1/#"], 0).await, [0]);
    let mut good = Client::connect(gate.mqtt, 4, "good").await;
    let payload = vec![b'x'; 200_000];
    // The kernel's buffers take some megabytes; then the outbox fills, and then the connection ends.
    for request in 0..150 {
        let id = good.publish(&format!("kp1/demo-v1/echo/t1/json/{request}"), &payload, 1).await;
        assert_eq!(good.acknowledged(id).await, 0);
        let response = good.message(&format!("kp1/demo-v1/echo/t1/json/{request}/status")).await;
        assert_eq!(response.len(), payload.len());
    }
    let mut received = 0;
    while slow.next_or_end().await.is_some() {
        received += 1;
    }
    assert!(received < 150, "{received}");
}
