//! Two replicas on one NATS.

use std::time::Duration;

use futures::StreamExt as _;
use ism::esp::FORWARDED_DATA;
use testkit::eventually;

use crate::client::{Client, Packet};
use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn a_response_reaches_a_subscriber_on_another_replica() {
    let world = World::new().await;
    let (one, two) = (world.gate(&[]).await, world.gate(&[]).await);
    let mut listener = Client::connect(two.mqtt, 4, "listener").await;
    assert_eq!(listener.subscribe(&["kp1/demo-v1/echo/t1/#"], 1).await, [1]);
    // At once, from a client that comes, publishes and goes.
    let mut asker = Client::connect(one.mqtt, 4, "").await;
    asker.publish("kp1/demo-v1/echo/t1/json/1", "first", 0).await;
    asker.disconnect().await;
    assert_eq!(listener.message("kp1/demo-v1/echo/t1/json/1/status").await, "first");
    assert!(listener.is_silent().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_share_an_endpoint_forward_only_to_each_other() {
    let world = World::new().await;
    let (one, two) = (world.gate(&[]).await, world.gate(&[]).await);
    let mut listener = Client::connect(two.mqtt, 4, "listener").await;
    assert_eq!(listener.subscribe(&["kp1/demo-v1/echo/t1/#"], 1).await, [1]);
    let mut asker = Client::connect(one.mqtt, 4, "asker").await;
    let mut everybody = world.listen(FORWARDED_DATA.at("kpc")).await;
    let mut directly = world.listen(FORWARDED_DATA.replica(two.platform.services()[0].replica())).await;
    let mut request = 0;
    // In the first seconds responses go to everybody; then the replicas know of each other.
    eventually("a response is forwarded to the other replica alone", Duration::from_secs(10), async || {
        request += 1;
        let id = asker.publish(&format!("kp1/demo-v1/echo/t1/json/{request}"), "x", 1).await;
        asker.acknowledged(id).await;
        asker.message(&format!("kp1/demo-v1/echo/t1/json/{request}/status")).await;
        assert_eq!(listener.message(&format!("kp1/demo-v1/echo/t1/json/{request}/status")).await, "x");
        let next =
            |events: &mut async_nats::Subscriber| futures::FutureExt::now_or_never(events.next()).is_some();
        let (broadcast, direct) = (next(&mut everybody), next(&mut directly));
        (direct && !broadcast).then_some(())
    })
    .await;
    assert!(listener.is_silent().await, "each response came once");
    // When the listener goes, nothing is forwarded any more.
    listener.disconnect().await;
    eventually("nothing is forwarded", Duration::from_secs(10), async || {
        while futures::FutureExt::now_or_never(directly.next()).is_some() {}
        request += 1;
        let id = asker.publish(&format!("kp1/demo-v1/echo/t1/json/{request}"), "x", 1).await;
        asker.acknowledged(id).await;
        world.client.flush().await.unwrap();
        futures::FutureExt::now_or_never(directly.next()).is_none().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_id_has_one_connection_across_replicas() {
    let world = World::new().await;
    let (one, two) = (world.gate(&[]).await, world.gate(&[]).await);
    let mut first = Client::connect(one.mqtt, 5, "same").await;
    let mut second = Client::connect(two.mqtt, 5, "same").await;
    assert_eq!(first.next_or_end().await, Some(Packet::Disconnect { code: 0x8E }));
    assert!(second.is_silent().await);
    let mut third = Client::connect(one.mqtt, 5, "same").await;
    assert_eq!(second.next_or_end().await, Some(Packet::Disconnect { code: 0x8E }));
    assert!(third.is_silent().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_id_that_came_to_two_replicas_while_nats_was_away_has_one_connection_after_it() {
    let mut world = World::new().await;
    // What is told expires at once: the take-over must not depend on that.
    let deadline = [("kpc.deadline_ms", "1")];
    let (one, two) = (world.gate(&deadline).await, world.gate(&deadline).await);
    world.nats.kill();
    for gate in [&one, &two] {
        let nats = gate.platform.services()[0].nats();
        eventually("the gateway has noticed", Duration::from_secs(10), async || {
            (nats.connection_state() != async_nats::connection::State::Connected).then_some(())
        })
        .await;
    }
    let mut first = Client::connect(one.mqtt, 5, "same").await;
    let before = runtime::now_ms();
    eventually("the clock goes on", Duration::from_secs(10), async || {
        (runtime::now_ms() > before).then_some(())
    })
    .await;
    let mut second = Client::connect(two.mqtt, 5, "same").await;
    world.nats.restart().await;
    assert_eq!(first.next_or_end().await, Some(Packet::Disconnect { code: 0x8E }));
    assert!(second.is_silent().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_may_go_and_come_back() {
    let mut world = World::new().await;
    let gate = world.gate(&[("kpc.deadline_ms", "5000")]).await;
    let mut client = Client::connect(gate.mqtt, 4, "c").await;
    let id = client.publish("kp1/demo-v1/echo/t1/json/1", "before", 1).await;
    assert_eq!(client.acknowledged(id).await, 0);
    world.nats.kill();
    client.publish("kp1/demo-v1/echo/t1/json/2", "meanwhile", 1).await;
    client.message("kp1/demo-v1/echo/t1/json/1/status").await;
    assert!(client.is_silent().await);
    world.nats.restart().await;
    // What NATS took with it is in doubt: it is not acknowledged, and for the client to send again.
    loop {
        match client.next_or_end().await {
            Some(Packet::PubAck { .. }) => break,
            Some(_) => {}
            None => {
                client = Client::connect(gate.mqtt, 4, "c").await;
                client.publish("kp1/demo-v1/echo/t1/json/2", "meanwhile", 1).await;
            }
        }
    }
    world.extension.has("meanwhile").await;
    // Extensions that come later are heard of.
    world.register("later", true).await;
    let mut request = 0;
    eventually("the new extension is known", Duration::from_secs(15), async || {
        request += 1;
        client.publish(&format!("kp1/demo-v1/later/t1/json/{request}"), "x", 0).await;
        client.is_silent().await.then_some(())
    })
    .await;
}
