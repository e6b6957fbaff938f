//! The feed of what happens in an application.

use std::collections::BTreeMap;

use ids::InstanceName;
use ism::elce::{CONNECTED, DISCONNECTED};
use ism::{ConnectedEvent, DisconnectedEvent, Record as _};
use reqwest::Response;
use runtime::now_ms;
use serde_json::{Value, json};
use testbed::{PATIENCE, Rest};

use crate::bed::Bed;

const PATH: &str = "/cex/api/v1/applications/meter/events";

/// A feed that is read.
struct Feed {
    response: Response,
    text: String,
}

/// An event, or an id without one.
#[derive(Debug, Default)]
struct Event {
    kind: String,
    id: String,
    data: Value,
}

impl Feed {
    async fn open(rest: &Rest, path: &str, headers: &[(&'static str, &str)]) -> Self {
        let response = rest.open(path, headers).await;
        assert_eq!(response.status().as_u16(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, text: String::new() }
    }

    /// What comes next; none at the end.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let mut read = Event::default();
                for (field, value) in event.lines().filter_map(|line| line.split_once(':')) {
                    let value = value.trim_start();
                    match field {
                        "event" => value.clone_into(&mut read.kind),
                        "id" => value.clone_into(&mut read.id),
                        "data" => read.data = serde_json::from_str(value).unwrap(),
                        _ => {}
                    }
                }
                self.text = rest.to_owned();
                return Some(read);
            }
            let chunk = tokio::time::timeout(PATIENCE, self.response.chunk()).await;
            let chunk = chunk.unwrap_or_else(|_| panic!("nothing more comes")).unwrap()?;
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    /// The next that is an event.
    async fn event(&mut self) -> Event {
        loop {
            let next = self.next().await.unwrap();
            if !next.kind.is_empty() {
                return next;
            }
        }
    }
}

/// Invokes without waiting.
async fn invoke(rest: &Rest, endpoint: &str, command_type: &str) {
    let path = format!("/cex/api/v1/endpoints/{endpoint}/commands/{command_type}?awaitTimeout=0");
    rest.post(&path, &json!({})).await.expect(202);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_is_told_in_order_and_may_be_resumed() {
    let bed = Bed::start(&[]).await;
    let acme = bed.acme();
    invoke(&acme, "m1", "before").await;
    let mut feed = Feed::open(&acme, PATH, &[]).await;
    let begin = feed.next().await.unwrap();
    assert!(begin.kind.is_empty() && !begin.id.is_empty(), "where it begins is told first: {begin:?}");
    invoke(&acme, "e1", "reboot").await;
    invoke(&acme, "m1", "reboot").await;
    bed.report("m1", "reboot", json!({"id": 1, "statusCode": 201})).await;

    let mut created = feed.event().await;
    // Where a feed begins, what was committed just before may come too.
    while created.data["commandType"] == "before" {
        created = feed.event().await;
    }
    assert_eq!((created.kind.as_str(), &created.data["state"]), ("command", &json!("CREATED")));
    for (field, value) in [
        ("commandId", json!(1)),
        ("commandType", json!("reboot")),
        ("endpointId", json!("m1")),
        ("status", json!("PENDING")),
    ] {
        assert_eq!(created.data[field], value, "{field}");
    }
    let executed = feed.event().await;
    assert_eq!((&executed.data["state"], &executed.data["statusCode"]), (&json!("EXECUTED"), &json!(201)));
    drop(feed);

    invoke(&acme, "m2", "reboot").await;
    // Resumed by the header, by the parameter, and from where it began.
    let mut feed = Feed::open(&acme, PATH, &[("last-event-id", &executed.id)]).await;
    assert_eq!(feed.event().await.data["endpointId"], json!("m2"));
    let mut feed = Feed::open(&acme, &format!("{PATH}?after={}", created.id), &[]).await;
    assert_eq!(feed.event().await.data["state"], json!("EXECUTED"));
    let path = format!("{PATH}?after={}&endpointId=m2&kinds=command&commandTypes=reboot", begin.id);
    let mut feed = Feed::open(&acme, &path, &[]).await;
    assert_eq!(feed.event().await.data["endpointId"], json!("m2"));
    // An id that this database has not reached yet is out of another.
    let mut of_another = Feed::open(&acme, &format!("{PATH}?after=18446744073709551615-1-1"), &[]).await;
    assert_eq!(of_another.event().await.kind, "gap");
    assert_eq!(of_another.event().await.data["commandType"], json!("before"), "all that is kept follows");
    bed.testbed.stop().await;
    assert!(feed.next().await.is_none(), "a stop ends the feed");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_connects_and_disconnects_is_told() {
    let bed = Bed::start(&[]).await;
    let (acme, kpc) = (bed.acme(), InstanceName::parse("kpc").unwrap());
    let endpoints = |ids: &[&str]| -> BTreeMap<String, String> {
        ids.iter().map(|id| ((*id).to_owned(), "meter-v1".to_owned())).collect()
    };
    let mut feed = Feed::open(&acme, &format!("{PATH}?kinds=connectivity&endpointId=m1"), &[]).await;
    let connected = ConnectedEvent {
        correlation_id: "correlation-1".to_owned(),
        timestamp: now_ms(),
        timeout: 0,
        endpoints: endpoints(&["m1", "m2"]),
        originator_replica_id: "kpc-1".to_owned(),
    };
    bed.testbed.client.publish(CONNECTED.of(&kpc), connected.encode()).await.unwrap();
    let event = feed.event().await;
    assert_eq!(event.kind, "connectivity");
    assert_eq!((&event.data["endpointId"], &event.data["connected"]), (&json!("m1"), &json!(true)));
    invoke(&acme, "m1", "reboot").await;
    let disconnected = DisconnectedEvent {
        correlation_id: "correlation-2".to_owned(),
        timestamp: now_ms(),
        timeout: 0,
        endpoints: endpoints(&["m1"]),
        originator_replica_id: "kpc-1".to_owned(),
    };
    bed.testbed.client.publish(DISCONNECTED.of(&kpc), disconnected.encode()).await.unwrap();
    let event = feed.event().await;
    assert_eq!((&event.data["endpointId"], &event.data["connected"]), (&json!("m1"), &json!(false)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_is_for_those_who_may_and_not_for_too_many() {
    let bed = Bed::start(&[("cex.feeds_max", "1")]).await;
    let (acme, other) = (bed.acme(), bed.other());
    other.get(PATH).await.refused(404);
    acme.get(&format!("{PATH}?after=yesterday")).await.refused(400);
    acme.get(&format!("{PATH}?kinds=weather")).await.refused(400);
    acme.get(&format!("{PATH}?duration=601")).await.refused(400);
    let feed = Feed::open(&acme, PATH, &[]).await;
    let message = acme.get(PATH).await.refused(503);
    assert!(message.contains("cex.feeds_max"), "{message}");
    drop(feed);
    // One that ends by itself frees its place too.
    testkit::eventually("the place is free again", PATIENCE, async || {
        let response = acme.open(&format!("{PATH}?duration=0"), &[]).await;
        let is_open = response.status() == 200;
        response.bytes().await.unwrap();
        is_open.then_some(())
    })
    .await;
}
