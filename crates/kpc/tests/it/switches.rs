//! What tenants demand of clients, and what application versions allow.

use std::time::Duration;

use testkit::eventually;

use crate::ccm::{Logins, log_in, will};
use crate::client::{Client, Packet};
use crate::http::post;
use crate::world::World;

const REQUIRED: &str = r#"{"transports":{"mqtt":{"tcp":{"basic-auth":{"required":true}}}}}"#;
const CERTIFICATE: &str = r#"{"transports":{"mqtt":{"tcp":{"x509-auth":{"required":true}}}}}"#;

#[tokio::test(flavor = "multi_thread")]
async fn without_the_credentials_that_its_tenant_requires_a_client_is_heard_no_further() {
    let world = World::new().await;
    world.configure("acme", None, REQUIRED).await;
    let gate = world.gate(&[]).await;
    let _logins = Logins::start(&world, &["good"]).await;
    for qos in [0, 1, 2] {
        let mut client = Client::connect(gate.mqtt, 5, "c").await;
        // Whether there is such a token is not told.
        client.publish("kp1/demo-v1/echo/wrong/json/1", "x", qos).await;
        let error = client.message("kp1/demo-v1/echo/wrong/json/1/error").await;
        assert!(error.contains("401") && error.contains("user name and password"), "{error}");
        assert_eq!(client.next_or_end().await, Some(Packet::Disconnect { code: 0x87 }));
        let mut client = Client::connect(gate.mqtt, 4, "c").await;
        client.publish("kp1/demo-v1/echo/t1/json/1", "x", qos).await;
        assert!(client.message("kp1/demo-v1/echo/t1/json/1/error").await.contains("401"));
        assert_eq!(client.next_or_end().await, None, "neither acknowledged nor kept");
    }
    let mut client = Client::open(gate.mqtt, 5).await;
    let last = will("kp1/demo-v1/echo/t1/json", "last words");
    client.say_connect("c", None, None, last).await.unwrap();
    assert_eq!(client.subscribe(&["kp1/demo-v1/echo/t1/#"], 1).await, [0x87]);
    drop(client);
    // Over HTTP tokens are the only credentials; another tenant requires nothing.
    assert_eq!(post(&gate, "/kp1/demo-v1/echo/t1/json", "http").await.status(), 200);
    let mut client = Client::connect(gate.mqtt, 5, "d").await;
    let id = client.publish("kp1/other-v1/echo/t1/json", "other", 1).await;
    assert_eq!(client.acknowledged(id).await, 0);
    let mut client = log_in(gate.mqtt, 5, "e", "good").await;
    let id = client.publish("kp1/demo-v1/echo/t1/json", "good", 1).await;
    assert_eq!(client.acknowledged(id).await, 0);
    let received = world.extension.received.lock().await;
    let payloads: Vec<_> = received.iter().map(|data| data.payload.clone()).collect();
    assert_eq!(payloads, ["http", "other", "good"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn turning_a_switch_on_ends_the_sessions_that_do_not_meet_it() {
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    let _logins = Logins::start(&world, &["good"]).await;
    let mut known = log_in(gate.mqtt, 5, "known", "good").await;
    let mut clients = [Client::connect(gate.mqtt, 5, "a").await, Client::connect(gate.mqtt, 4, "b").await];
    let mut other = Client::connect(gate.mqtt, 5, "other").await;
    let mut idle = Client::connect(gate.mqtt, 5, "idle").await;
    for client in clients.iter_mut().chain([&mut known]) {
        let id = client.publish("kp1/demo-v1/echo/t1/json", "x", 1).await;
        assert_eq!(client.acknowledged(id).await, 0);
    }
    let id = other.publish("kp1/other-v1/echo/t2/json", "x", 1).await;
    assert_eq!(other.acknowledged(id).await, 0);
    world.configure("acme", None, REQUIRED).await;
    assert_eq!(clients[0].next_or_end().await, Some(Packet::Disconnect { code: 0x87 }));
    assert_eq!(clients[1].next_or_end().await, None);
    assert!(known.is_silent().await && other.is_silent().await && idle.is_silent().await);
    // What a client has shown may be too little.
    world.configure("acme", None, CERTIFICATE).await;
    assert_eq!(known.next_or_end().await, Some(Packet::Disconnect { code: 0x87 }));
    let (_, answer) = crate::ccm::try_log_in(gate.mqtt, 5, "known", "good", "secret").await;
    assert_eq!(crate::ccm::code(&answer), 0x87);
    // Nothing is required any more.
    world.configure("acme", None, "{}").await;
    eventually("clients are heard again", Duration::from_secs(10), async || {
        let mut client = Client::connect(gate.mqtt, 5, "a").await;
        client.publish("kp1/demo-v1/echo/t1/json/1", "x", 0).await;
        let topic =
            |packet: &Packet| matches!(packet, Packet::Publish { topic, .. } if topic.ends_with("/status"));
        client.next_or_end().await.is_some_and(|packet| topic(&packet)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_that_is_turned_on_while_a_client_is_checked_is_not_missed() {
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    for round in 0..20 {
        world.configure("acme", None, "{}").await;
        eventually("the tenant requires nothing", Duration::from_secs(10), async || {
            let mut client = Client::connect(gate.mqtt, 5, "probe").await;
            let id = client.publish("kp1/demo-v1/echo/t1/json", "x", 1).await;
            let answer = client.next_or_end().await;
            matches!(answer, Some(Packet::PubAck { id: of, code: 0, .. }) if of == id).then_some(())
        })
        .await;
        let mut client = Client::connect(gate.mqtt, 5, "c").await;
        let publishing = client.publish("kp1/demo-v1/echo/t1/json", "x", 1);
        let switching = async {
            for _ in 0..round {
                tokio::task::yield_now().await;
            }
            world.configure("acme", None, REQUIRED).await;
        };
        tokio::join!(publishing, switching);
        // Whatever came first, the client does not stay.
        while let Some(packet) = client.next_or_end().await {
            if let Packet::Disconnect { code } = packet {
                assert_eq!(code, 0x87);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_list_of_allowed_extensions_counts_at_once() {
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    let mut client = Client::connect(gate.mqtt, 5, "c").await;
    let mut code = async || {
        let id = client.publish("kp1/demo-v1/echo/t1/json", "x", 1).await;
        client.acknowledged(id).await
    };
    for round in 0..5 {
        assert_eq!(code().await, 0, "round {round}");
        world.configure("acme", Some("demo-v1"), r#"{"allowed-extension-instances":["other"]}"#).await;
        eventually("the change is known", Duration::from_secs(2), async || {
            (code().await == 0x87).then_some(())
        })
        .await;
        assert_eq!(code().await, 0x87, "round {round}");
        world.configure("acme", Some("demo-v1"), r#"{"allowed-extension-instances":["other","echo"]}"#).await;
        eventually("the change is known", Duration::from_secs(2), async || (code().await == 0).then_some(()))
            .await;
    }
}
