//! What the gateway tells of itself and of the traffic of endpoints.

use futures::StreamExt as _;
use ism::Record as _;
use ism::elce::{TRAFFIC_REPORT, TrafficReportEvent, TrafficStat};
use ism::session::{REPLICA_ALIVE, ReplicaAliveEvent};

use crate::client::Client;
use crate::http::post;
use crate::world::World;

fn add(to: &mut TrafficStat, more: &TrafficStat) {
    to.total_received_payload += more.total_received_payload;
    to.total_sent_payload += more.total_sent_payload;
    to.total_received_message_count += more.total_received_message_count;
    to.total_sent_message_count += more.total_sent_message_count;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_traffic_of_endpoints_is_reported_to_the_byte() {
    let world = World::new().await;
    let mut reports = world.listen(TRAFFIC_REPORT.of_any()).await;
    let gate = world.gate(&[("kpc.traffic.interval_s", "1")]).await;
    let mut client = Client::connect(gate.mqtt, 5, "c").await;
    for number in 0..10 {
        let id = client.publish(&format!("kp1/demo-v1/echo/t1/json/{number}"), "12345", 1).await;
        assert_eq!(client.acknowledged(id).await, 0);
        client.message(&format!("kp1/demo-v1/echo/t1/json/{number}/status")).await;
    }
    for _ in 0..5 {
        // Another token of the same endpoint.
        assert_eq!(post(&gate, "/kp1/demo-v1/echo/t1b/json", "123").await.status(), 200);
    }
    assert_eq!(post(&gate, "/kp1/counted-v1/echo/t2/json", "1").await.status(), 200);
    assert_eq!(post(&gate, "/kp1/demo-v1/echo/wrong/json", "1").await.status(), 401);
    let (mut one, mut two) = (TrafficStat::default(), TrafficStat::default());
    let mut until = 0;
    while one.total_received_message_count < 15 || two.total_received_message_count < 1 {
        let message = tokio::time::timeout(testbed::PATIENCE, reports.next()).await.unwrap().unwrap();
        let event = TrafficReportEvent::decode(&message.payload).unwrap();
        assert_eq!(event.originator_replica_id, gate.platform.services()[0].replica().as_str());
        assert!(event.time_from < event.time_to && event.time_from >= until);
        until = event.time_to;
        for (application, endpoints) in &event.tenant_traffic_stats["acme"] {
            for (endpoint, stat) in endpoints {
                match (application.as_str(), endpoint.as_str()) {
                    ("demo", "e1") => add(&mut one, stat),
                    ("counted", "e2") => add(&mut two, stat),
                    other => panic!("{other:?}"),
                }
            }
        }
    }
    let expected = TrafficStat {
        total_received_payload: 10 * 5 + 5 * 3,
        total_sent_payload: 10 * 5 + 5 * 3,
        total_received_message_count: 15,
        total_sent_message_count: 15,
    };
    assert_eq!(one, expected);
    assert_eq!((two.total_received_payload, two.total_sent_message_count), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_stops_reports_what_is_left() {
    let world = World::new().await;
    let mut reports = world.listen(TRAFFIC_REPORT.of_any()).await;
    let gate = world.gate(&[("kpc.traffic.interval_s", "3600")]).await;
    assert_eq!(post(&gate, "/kp1/demo-v1/echo/t1/json", "123").await.status(), 200);
    gate.platform.stop().await.unwrap();
    let message = tokio::time::timeout(testbed::PATIENCE, reports.next()).await.unwrap().unwrap();
    let event = TrafficReportEvent::decode(&message.payload).unwrap();
    assert_eq!(event.tenant_traffic_stats["acme"]["demo"]["e1"].total_received_payload, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_tells_that_it_is_alive() {
    let world = World::new().await;
    let mut events = world.listen(REPLICA_ALIVE.of_any()).await;
    let gate = world.gate(&[]).await;
    let message = tokio::time::timeout(testbed::PATIENCE, events.next()).await.unwrap().unwrap();
    let event = ReplicaAliveEvent::decode(&message.payload).unwrap();
    assert_eq!(event.originator_replica_id, gate.platform.services()[0].replica().as_str());
    assert_eq!(
        (message.subject.as_str(), event.interval_ms),
        ("kaa.v1.events.kpc.replica.session.alive", 5_000)
    );
}
