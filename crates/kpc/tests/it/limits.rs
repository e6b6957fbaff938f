//! What a client may not do, and that it hurts nobody else.

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::client::{Client, Packet};
use crate::http::post;
use crate::world::{Gate, World};

/// Publishes with QoS 1; the reason code and the reason of PUBACK.
async fn publish(client: &mut Client, topic: &str) -> (u8, String) {
    let id = client.publish(topic, "x", 1).await;
    match client.wait(|packet| matches!(packet, Packet::PubAck { .. })).await {
        Packet::PubAck { id: acknowledged, code, reason } if acknowledged == id => (code, reason),
        other => panic!("{other:?}"),
    }
}

/// Posts until that is refused; the refusal's status, text and whether it says when to try again.
async fn post_until_refused(gate: &Gate, path: &str) -> (u16, String, bool) {
    for _ in 0..20 {
        let response = post(gate, path, "x").await;
        if response.status() != 200 {
            let again = response.headers().contains_key("retry-after");
            return (response.status().as_u16(), response.text().await.unwrap(), again);
        }
    }
    panic!("every message was taken");
}

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
    let error = client.message("kp1/demo-v1/echo/t1/json/error").await;
    assert!(error.contains("429"), "{error}");
    assert!(error.contains("(kpc.limits.messages_per_second_per_connection)"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_negative_acknowledgements_messages_wait_for_their_rate() {
    let world = World::new().await;
    for limit in ["connection", "endpoint", "tenant"] {
        // A burst of twenty, and after it one each 100 ms.
        let gate = world.gate(&[(&format!("kpc.limits.messages_per_second_per_{limit}"), "10")]).await;
        let mut client = Client::connect(gate.mqtt, 4, "c").await;
        let mut ids = Vec::new();
        for number in 0..30 {
            ids.push(client.publish("kp1/demo-v1/echo/t1/json", format!("{limit} {number}"), 1).await);
        }
        for id in ids {
            assert_eq!(client.acknowledged(id).await, 0);
        }
        assert!(client.is_silent().await, "no message was refused");
        world.extension.has(&format!("{limit} 29")).await;
    }
    assert_eq!(world.extension.count().await, 90);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_negative_acknowledgements_what_is_over_a_limit_ends_the_connection() {
    let world = World::new().await;
    let limits = [
        ("kpc.deadline_ms", "500"),
        ("kpc.limits.endpoints_per_connection", "1"),
        ("kpc.limits.messages_per_second_per_endpoint", "1"),
    ];
    let gate = world.gate(&limits).await;
    let cases =
        [(["t1", "t2"], "endpoints_per_connection"), (["t3", "t3"], "messages_per_second_per_endpoint")];
    for (tokens, key) in cases {
        let mut client = Client::connect(gate.mqtt, 4, "c").await;
        // What comes together may be looked up in any order; this one is the first.
        let id = client.publish(&format!("kp1/demo-v1/echo/{}/json", tokens[0]), "x", 1).await;
        assert_eq!(client.acknowledged(id).await, 0);
        for _ in 0..3 {
            client.publish(&format!("kp1/demo-v1/echo/{}/json", tokens[1]), "x", 1).await;
        }
        let error = client.message(&format!("kp1/demo-v1/echo/{}/json/error", tokens[1])).await;
        assert!(error.contains("429") && error.contains(&format!("(kpc.limits.{key})")), "{error}");
        let mut acknowledged = 0;
        while let Some(packet) = client.next_or_end().await {
            acknowledged += usize::from(matches!(packet, Packet::PubAck { .. }));
        }
        assert!(acknowledged <= 1, "{key}: {acknowledged}");
    }
    // With QoS 0 there is nothing to withhold.
    let mut client = Client::connect(gate.mqtt, 4, "c").await;
    for _ in 0..4 {
        client.publish("kp1/demo-v1/echo/t4/json", "x", 0).await;
    }
    assert!(client.message("kp1/demo-v1/echo/t4/json/error").await.contains("429"));
    client.ping().await;
    client.wait(|packet| *packet == Packet::PingResp).await;
}

/// An `/error` is no use to a client whose system throws it away with the connection, because it went on sending.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_on_learns_why_its_connection_ends() {
    let world = World::new().await;
    let gate = world.gate(&[("kpc.deadline_ms", "500")]).await;
    for round in 0..2 {
        let stream = TcpStream::connect(("127.0.0.1", gate.mqtt)).await.unwrap().into_std().unwrap();
        let mut sender = TcpStream::from_std(stream.try_clone().unwrap()).unwrap();
        let mut client = Client::over(TcpStream::from_std(stream).unwrap(), 4).hello("c").await;
        client.publish("kp1/demo-v1/echo/t1/silent/1", "x", 1).await;
        let sending = tokio::spawn(async move {
            let message = [b"\x30\x32\x00\x18kp1/demo-v1/echo/t1/json", &[b'x'; 24][..]].concat();
            while sender.write_all(&message).await.is_ok() {}
        });
        // Not acknowledged, for the connection may have ended by now.
        let error = client
            .wait(|packet| matches!(packet, Packet::Publish { topic, .. } if topic.ends_with("/1/error")));
        let Packet::Publish { payload, .. } = error.await else { unreachable!("it was waited for") };
        assert!(String::from_utf8_lossy(&payload).contains("504"), "{round}: {payload:?}");
        sending.await.unwrap();
    }
}

/// CONNECT is kept until it is whole, and comes from anybody.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_makes_the_gateway_keep_a_long_connect() {
    let world = World::new().await;
    let gate = world.gate(&[("kpc.mqtt.connect_timeout_s", "600")]).await;
    for version in [4, 5] {
        let mut client = Client::open(gate.mqtt, version).await;
        // One of 200,000 bytes; it is refused for its length alone.
        client.send(&[0x10, 0xC0, 0x9A, 0x0C, 0, 4, b'M', b'Q', b'T', b'T', version, 2, 0, 60]).await;
        assert!(
            client
                .next_or_end()
                .await
                .is_none_or(|packet| matches!(packet, Packet::ConnAck { code: 1.., .. }))
        );
        // What is longer than that may be sent afterwards.
        let mut client = Client::connect(gate.mqtt, version, "").await;
        let id = client.publish("kp1/demo-v1/echo/t1/json", "x".repeat(900_000), 1).await;
        assert_eq!(client.acknowledged(id).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_payloads_together_take_a_limited_memory() {
    let world = World::new().await;
    let limits = [("kpc.limits.payload_bytes", "1000"), ("kpc.limits.in_flight_bytes", "1000")];
    let gate = world.gate(&limits).await;
    let mut first = Client::connect(gate.mqtt, 4, "first").await;
    let mut second = Client::connect(gate.mqtt, 4, "second").await;
    let one = first.publish("kp1/demo-v1/echo/t1/gate", "1".repeat(600), 1).await;
    world.extension.has(&"1".repeat(600)).await;
    // MQTT waits, also for what comes after; HTTP is refused.
    let two = second.publish("kp1/demo-v1/echo/t2/json", "2".repeat(600), 1).await;
    let response = post(&gate, "/kp1/demo-v1/echo/t3/json", "3".repeat(600)).await;
    assert!(response.status() == 503 && response.headers().contains_key("retry-after"));
    assert!(response.text().await.unwrap().contains("(kpc.limits.in_flight_bytes)"));
    assert!(second.is_silent().await);
    assert_eq!(world.extension.count().await, 1);
    world.extension.gate.notify_one();
    assert_eq!((first.acknowledged(one).await, second.acknowledged(two).await), (0, 0));
    assert_eq!(post(&gate, "/kp1/demo-v1/echo/t3/json", "3".repeat(600)).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_sends_so_much_over_all_connections_and_http_together() {
    let world = World::new().await;
    // A burst of two.
    let gate = world.gate(&[("kpc.limits.messages_per_second_per_endpoint", "1")]).await;
    let key = "(kpc.limits.messages_per_second_per_endpoint)";
    let mut refused = None;
    let mut clients = [Client::connect(gate.mqtt, 5, "c").await, Client::connect(gate.mqtt, 5, "d").await];
    for round in 0..20 {
        let (code, reason) = publish(&mut clients[round % 2], "kp1/demo-v1/echo/t1/json").await;
        assert!(code == 0 || round >= 2, "{round}: {reason}");
        if code != 0 {
            refused = Some((code, reason));
            break;
        }
    }
    let (code, reason) = refused.expect("every message was taken");
    assert!(code == 0x97 && reason.contains("429") && reason.contains(key), "{code:x} {reason}");
    let (status, body, again) = post_until_refused(&gate, "/kp1/demo-v1/echo/t1/json").await;
    assert!(status == 429 && body.contains(key) && again, "{status} {body}");
    // Another endpoint has a rate of its own.
    assert_eq!(publish(&mut clients[0], "kp1/demo-v1/echo/t2/json").await.0, 0);
    assert_eq!(post(&gate, "/kp1/demo-v1/echo/t3/json", "x").await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_sends_so_much_with_all_its_endpoints_together() {
    let world = World::new().await;
    let gate = world.gate(&[("kpc.limits.messages_per_second_per_tenant", "1")]).await;
    let key = "(kpc.limits.messages_per_second_per_tenant)";
    let mut client = Client::connect(gate.mqtt, 5, "c").await;
    // What strangers send takes nothing from the tenant.
    for _ in 0..10 {
        assert_eq!(publish(&mut client, "kp1/demo-v1/echo/wrong/json").await.0, 0x87);
    }
    assert_eq!(publish(&mut client, "kp1/demo-v1/echo/t1/json").await.0, 0);
    assert_eq!(post(&gate, "/kp1/counted-v1/echo/t2/json", "x").await.status(), 200);
    let mut codes = Vec::new();
    for number in 3..20 {
        codes.push(publish(&mut client, &format!("kp1/demo-v1/echo/t{number}/json")).await);
    }
    let refused = codes.iter().find(|(code, _)| *code != 0).expect("every message was taken");
    assert!(refused.0 == 0x97 && refused.1.contains("429") && refused.1.contains(key), "{refused:?}");
    // Without endpoints too.
    let (status, body, again) = post_until_refused(&gate, "/kp1/demo-v1/anyone/json").await;
    assert!(status == 429 && body.contains(key) && again, "{status} {body}");
    // Another tenant has a rate of its own.
    assert_eq!(publish(&mut client, "kp1/other-v1/echo/t1/json").await.0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_endpoints_or_connections_are_refused() {
    let world = World::new().await;
    let limits = [("kpc.limits.endpoints_per_connection", "2"), ("kpc.limits.connections_per_address", "2")];
    let gate = world.gate(&limits).await;
    let mut client = Client::connect(gate.mqtt, 5, "c").await;
    for (token, code) in [("t1", 0), ("t2", 0), ("t3", 0x97), ("t1", 0)] {
        let (acknowledged, reason) = publish(&mut client, &format!("kp1/demo-v1/echo/{token}/json")).await;
        assert_eq!(acknowledged, code, "{token}");
        assert!(code == 0 || reason.contains("(kpc.limits.endpoints_per_connection)"), "{reason}");
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
