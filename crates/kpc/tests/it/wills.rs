//! Wills are messages like any other.

use crate::client::{Client, Packet, Will};
use crate::world::{Gate, World};

fn will(payload: &str, delay_s: u32) -> Option<Will> {
    Some(Will { topic: "kp1/demo-v1/echo/t1/json".to_owned(), payload: payload.to_owned(), delay_s })
}

async fn connect(gate: &Gate, version: u8, client_id: &str, will: Option<Will>) -> Client {
    let (client, packet) = Client::try_connect(gate.mqtt, version, client_id, will).await;
    assert!(matches!(packet, Packet::ConnAck { code: 0, .. }), "{packet:?}");
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn a_will_is_sent_when_the_client_goes_without_farewell() {
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    drop(connect(&gate, 4, "a", will("will of a", 0)).await);
    let data = world.extension.has("will of a").await;
    assert_eq!(data.endpoint_id.as_deref(), Some("e1"));
    drop(connect(&gate, 5, "b", will("will of b", 0)).await);
    world.extension.has("will of b").await;
    // DISCONNECT with will message.
    let mut client = connect(&gate, 5, "c", will("will of c", 0)).await;
    client.send(&[0xE0, 1, 0x04]).await;
    world.extension.has("will of c").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_farewell_or_a_quick_return_cancels_the_will() {
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    connect(&gate, 4, "a", will("cancelled", 0)).await.disconnect().await;
    connect(&gate, 5, "b", will("cancelled", 0)).await.disconnect().await;
    // The end of the older connection is noticed before, while or after the newer one is opened.
    let mut back = Vec::new();
    for number in 0..30 {
        let client_id = format!("c{number}");
        let older = connect(&gate, 5, &client_id, will("cancelled", 1)).await;
        if number % 3 > 0 {
            drop(older);
        }
        back.push(connect(&gate, 5, &client_id, None).await);
    }
    // A will that is not cancelled, sent later than the others would have been.
    drop(connect(&gate, 5, "d", will("delayed", 2)).await);
    world.extension.has("delayed").await;
    assert_eq!(world.extension.count().await, 1);
}
