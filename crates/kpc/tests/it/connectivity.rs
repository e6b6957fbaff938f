//! Which endpoints are connected, as others hear it.

use futures::StreamExt as _;
use ism::Record as _;
use ism::elce::{CONNECTED, ConnectedEvent, DISCONNECTED, DisconnectedEvent};

use crate::client::Client;
use crate::world::World;

/// What was told of endpoints, in the order in which it was told.
struct Told(async_nats::Subscriber);

impl Told {
    async fn listen(world: &World) -> Self {
        Self(world.listen("kaa.v1.events.*.endpoint.connectivity.*".to_owned()).await)
    }

    /// The ids, whether they are connected, and when that was.
    async fn next(&mut self) -> (Vec<String>, bool, i64) {
        let message = tokio::time::timeout(testbed::PATIENCE, self.0.next()).await.unwrap().unwrap();
        let subject = message.subject.as_str();
        let kpc = ids::InstanceName::parse("kpc").unwrap();
        if subject == CONNECTED.of(&kpc) {
            let event = ConnectedEvent::decode(&message.payload).unwrap();
            (event.endpoints.into_keys().collect(), true, event.timestamp)
        } else {
            assert_eq!(subject, DISCONNECTED.of(&kpc));
            let event = DisconnectedEvent::decode(&message.payload).unwrap();
            (event.endpoints.into_keys().collect(), false, event.timestamp)
        }
    }
}

async fn publish(client: &mut Client, token: &str) {
    let id = client.publish(&format!("kp1/demo-v1/echo/{token}/json"), "x", 1).await;
    assert_eq!(client.acknowledged(id).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_with_two_connections_goes_with_the_last() {
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    let mut told = Told::listen(&world).await;
    let mut first = Client::connect(gate.mqtt, 5, "first").await;
    publish(&mut first, "t1").await;
    let (ids, is_connected, since) = told.next().await;
    assert_eq!((ids.as_slice(), is_connected), (&["e1".to_owned()][..], true));
    // Another connection, with another token of the same endpoint, and one that is its own.
    let mut second = Client::connect(gate.mqtt, 5, "second").await;
    publish(&mut second, "t1b").await;
    publish(&mut second, "t2").await;
    let (ids, is_connected, next) = told.next().await;
    assert_eq!((ids.as_slice(), is_connected), (&["e2".to_owned()][..], true));
    assert!(next > since);
    first.disconnect().await;
    second.disconnect().await;
    let mut gone = Vec::new();
    while gone.len() < 2 {
        let (ids, is_connected, at) = told.next().await;
        assert!(!is_connected && at > next);
        gone.extend(ids);
    }
    gone.sort();
    assert_eq!(gone, ["e1", "e2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn however_fast_an_endpoint_comes_and_goes_its_last_event_tells_how_it_is() {
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    let mut told = Told::listen(&world).await;
    // Several connections at once come and go with the same endpoint; some go before they are answered.
    let rounds: Vec<_> = (0..8)
        .map(|number| {
            let port = gate.mqtt;
            tokio::spawn(async move {
                for round in 0..25 {
                    let mut client = Client::connect(port, 5, "").await;
                    let qos = u8::from((number + round) % 2 == 0);
                    let id = client.publish("kp1/demo-v1/echo/t1/json", "x", qos).await;
                    if qos == 1 {
                        client.acknowledged(id).await;
                    }
                    client.disconnect().await;
                }
            })
        })
        .collect();
    for round in rounds {
        round.await.unwrap();
    }
    world.extension.has("x").await;
    // A last one, whose going is the end of it.
    let mut last = Client::connect(gate.mqtt, 5, "last").await;
    publish(&mut last, "t1").await;
    publish(&mut last, "t9").await;
    last.disconnect().await;
    let (mut events, mut is_over) = (Vec::new(), false);
    while !is_over {
        let (ids, is_connected, at) = told.next().await;
        is_over = ids.contains(&"e9".to_owned()) && !is_connected;
        if ids.contains(&"e1".to_owned()) {
            events.push((at, is_connected));
        }
    }
    for (number, (at, is_connected)) in events.iter().enumerate() {
        assert_eq!(*is_connected, number % 2 == 0, "{events:?}");
        assert!(number == 0 || events[number - 1].0 < *at, "{events:?}");
    }
    assert!(events.last().is_some_and(|(_, is_connected)| !is_connected), "{events:?}");
}
