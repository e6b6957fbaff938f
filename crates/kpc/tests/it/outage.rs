//! What was revoked while NATS was away ends after it.

use std::time::Duration;

use testkit::eventually;

use crate::ccm::{Logins, code, log_in, try_log_in};
use crate::client::{Client, Packet};
use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_checked_again_after_nats_was_away() {
    let mut world = World::new().await;
    let gate = world.gate(&[("kpc.clients.recheck_s", "1")]).await;
    let logins = Logins::start(&world, &["good"]).await;
    let mut known = log_in(gate.mqtt, 5, "known", "good").await;
    let mut anonymous = Client::connect(gate.mqtt, 5, "anonymous").await;
    let id = anonymous.publish("kp1/demo-v1/echo/t1/json", "x", 1).await;
    assert_eq!(anonymous.acknowledged(id).await, 0);
    let mut without_endpoint = Client::connect(gate.mqtt, 5, "without").await;
    world.nats.kill();
    let nats = gate.platform.services()[0].nats().clone();
    eventually("the gateway has noticed", Duration::from_secs(10), async || {
        (nats.connection_state() != async_nats::connection::State::Connected).then_some(())
    })
    .await;
    // No event tells of it.
    world.revoked.store(true, std::sync::atomic::Ordering::SeqCst);
    logins.set("good", 403);
    world.nats.restart().await;
    assert_eq!(known.next_or_end().await, Some(Packet::Disconnect { code: 0x98 }));
    assert_eq!(anonymous.next_or_end().await, Some(Packet::Disconnect { code: 0x87 }));
    assert!(without_endpoint.is_silent().await);
    eventually("the register answers again", Duration::from_secs(10), async || {
        (code(&try_log_in(gate.mqtt, 5, "known", "good", "secret").await.1) == 0x87).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_with_good_tokens_outlive_nats() {
    let mut world = World::new().await;
    let gate = world.gate(&[]).await;
    let mut clients = Vec::new();
    for number in 1..=40 {
        let mut client = Client::connect(gate.mqtt, 5, "").await;
        let id = client.publish(&format!("kp1/demo-v1/echo/t{number}/json"), "x", 1).await;
        assert_eq!(client.acknowledged(id).await, 0);
        clients.push(client);
    }
    let before = world.token_questions.load(std::sync::atomic::Ordering::SeqCst);
    world.nats.restart().await;
    eventually("all tokens are asked again", Duration::from_secs(20), async || {
        let now = world.token_questions.load(std::sync::atomic::Ordering::SeqCst);
        (now >= before + 40).then_some(())
    })
    .await;
    for client in &mut clients {
        assert!(client.is_silent().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_that_is_turned_on_while_nats_is_away_is_enforced_after_it() {
    let mut world = World::new().await;
    let gate = world.gate(&[]).await;
    let mut client = Client::connect(gate.mqtt, 5, "c").await;
    let id = client.publish("kp1/demo-v1/echo/t1/json", "x", 1).await;
    assert_eq!(client.acknowledged(id).await, 0);
    world.nats.kill();
    // No event tells of it.
    world.set("acme", r#"{"transports":{"mqtt":{"tcp":{"basic-auth":{"required":true}}}}}"#);
    world.nats.restart().await;
    assert_eq!(client.next_or_end().await, Some(Packet::Disconnect { code: 0x87 }));
}
