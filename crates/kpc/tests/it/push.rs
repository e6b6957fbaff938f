//! Pushes from extensions: in whose name, to whom, until when, and what is reported of them.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use ids::{InstanceName, ReplicaId};
use ism::esp::{CLIENT_DATA, ClientData, DeliveryReport, EXTENSION_DATA, ExtensionData};
use ism::{Record as _, subject};
use runtime::now_ms;

use crate::client::{Client, Packet};
use crate::world::{Gate, World};

const PUSHED: &str = "kp1/demo-v1/echo/t1/command/reboot/status";
/// For a push that is to be delivered, in ms: longer than a test takes.
const LONG: i64 = 60_000;

fn push(endpoint: &str, payload: &'static str) -> ExtensionData {
    ExtensionData {
        correlation_id: "push-1".to_owned(),
        timestamp: now_ms(),
        timeout: 5_000,
        extension_instance_name: Some("echo".to_owned()),
        endpoint_id: Some(endpoint.to_owned()),
        resource_path: "/command/reboot".to_owned(),
        payload: Some(Bytes::from(payload)),
        status_code: 200,
        ..ExtensionData::default()
    }
}

fn name(name: &str) -> InstanceName {
    InstanceName::parse(name).unwrap()
}

fn everybody() -> String {
    EXTENSION_DATA.by(&name("echo")).at("kpc")
}

fn replica(gate: &Gate) -> ReplicaId {
    gate.platform.services()[0].replica().clone()
}

fn at(gate: &Gate) -> String {
    EXTENSION_DATA.by(&name("echo")).replica(&replica(gate))
}

/// Reports on one push.
struct Reports(async_nats::Subscriber);

impl Reports {
    async fn of(world: &World, subject: String, data: &ExtensionData) -> Self {
        let inbox = world.client.new_inbox();
        let reports = world.client.subscribe(inbox.clone()).await.unwrap();
        world.client.publish_with_reply(subject, inbox, data.encode()).await.unwrap();
        Self(reports)
    }

    /// The next status; none when none comes in time.
    async fn next(&mut self) -> Option<i32> {
        let message = tokio::time::timeout(Duration::from_secs(3), self.0.next()).await.ok()??;
        let report = DeliveryReport::decode(&message.payload).unwrap();
        assert_eq!(report.correlation_id, "push-1");
        Some(report.status_code)
    }

    /// The final status of a push that was taken before.
    async fn taken(mut self) -> Option<i32> {
        assert_eq!(self.next().await, Some(102));
        self.next().await
    }
}

/// A client that speaks for endpoint `e1`.
async fn device(gate: &Gate, version: u8) -> Client {
    let mut client = Client::connect(gate.mqtt, version, "device").await;
    let id = client.publish("kp1/demo-v1/echo/t1/json", "x", 1).await;
    client.acknowledged(id).await;
    client
}

/// The next push to a client, which it does not acknowledge: its payload and packet id.
async fn pushed(client: &mut Client) -> (String, u16) {
    let message = client.next().await;
    let Packet::Publish { topic, payload, qos: 1, id, .. } = message else { panic!("{message:?}") };
    assert_eq!(topic, PUSHED);
    (String::from_utf8(payload).unwrap(), id)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_needs_no_subscription_and_reports_after_the_acknowledgement() {
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    let mut client = device(&gate, 4).await;
    let mut reports = Reports::of(&world, everybody(), &push("e1", "now")).await;
    let (payload, id) = pushed(&mut client).await;
    assert_eq!(payload, "now");
    assert_eq!(reports.next().await, Some(102));
    // The device has it and has not acknowledged it.
    assert!(client.is_silent().await);
    client.ack(id).await;
    assert_eq!(reports.next().await, Some(200));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extension_may_push_to_where_it_heard_from_the_endpoint_and_not_answer_late() {
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    let mut messages = world.listen(CLIENT_DATA.at("echo")).await;
    let mut client = device(&gate, 4).await;
    let message = messages.next().await.unwrap();
    let asked = ClientData::decode(&message.payload).unwrap();
    let affine = message.reply.unwrap().to_string();
    assert_eq!(subject::sender(&affine), Some("echo"));
    // The same request answered a second time: nobody waits any more.
    let late = ExtensionData { correlation_id: asked.correlation_id, ..push("e1", "late") };
    world.client.publish(affine.clone(), late.encode()).await.unwrap();
    let reports = Reports::of(&world, affine.clone(), &push("e1", "affine")).await;
    // Had the late answer been delivered, it would have come first.
    assert_eq!(client.message(PUSHED).await, "affine");
    assert_eq!(reports.taken().await, Some(200));
    assert!(client.is_silent().await);
    // The sender of a push to this replica hears that the endpoint is not here.
    assert_eq!(Reports::of(&world, affine, &push("e2", "x")).await.next().await, Some(404));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extension_speaks_in_its_own_name_only() {
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    let mut messages = world.listen(CLIENT_DATA.at("echo")).await;
    let mut client = device(&gate, 4).await;
    let slot = subject::parse_reply(&messages.next().await.unwrap().reply.unwrap()).unwrap().slot;
    let (other, to) = (name("other"), replica(&gate));
    let forged = EXTENSION_DATA.by(&other);
    for subject in [
        forged.at("kpc"),
        forged.replica(&to),
        forged.reply(&to, slot),
        // Without a name, where an answer would be.
        EXTENSION_DATA.reply(&to, slot),
        // Where NATS lets another extension, or any service, publish, and the name is not where it is looked for.
        format!("kaa.v1.replica.{to}.esp.other.x.ExtensionData"),
        format!("kaa.v1.replica.{to}.runtime.ExtensionData"),
        format!("kaa.v1.replica.{to}.runtime.echo.ExtensionData"),
        format!("kaa.v1.replica.{to}.runtime.1.ExtensionData"),
        format!("kaa.v1.replica.{to}.runtime.echo.1.ExtensionData"),
    ] {
        world.client.publish(subject, push("e1", "forged").encode()).await.unwrap();
    }
    // A response that another replica seems to have forwarded.
    client.subscribe(&["kp1/demo-v1/echo/t1/#"], 1).await;
    let forged = ExtensionData { request_id: Some(7), ..push("e1", "forged") }.encode();
    for last in ["runtime.x.ForwardedData", "runtime.ForwardedData", "esp.other.x.ForwardedData"] {
        world.client.publish(format!("kaa.v1.replica.{to}.{last}"), forged.clone()).await.unwrap();
    }
    let nameless = ExtensionData { extension_instance_name: None, ..push("e1", "nameless") };
    world.client.publish(at(&gate), nameless.encode()).await.unwrap();
    for subject in [at(&gate), everybody()] {
        let reports = Reports::of(&world, subject, &push("e1", "true")).await;
        assert_eq!(client.message(PUSHED).await, "true");
        assert_eq!(reports.taken().await, Some(200));
    }
    // RFC 4's own subjects: an operator decides who may publish there.
    for subject in [EXTENSION_DATA.replica(&to), EXTENSION_DATA.at("kpc")] {
        let reports = Reports::of(&world, subject, &push("e1", "by RFC 4")).await;
        assert_eq!(client.message(PUSHED).await, "by RFC 4");
        assert_eq!(reports.taken().await, Some(200));
    }
    assert!(client.is_silent().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_in_the_name_of_another_extension_is_none() {
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    world.register("liar", true).await;
    let mut messages = world.listen(CLIENT_DATA.at("liar")).await;
    let client = world.client.clone();
    tokio::spawn(async move {
        while let Some(message) = messages.next().await {
            client.publish(message.reply.unwrap(), push("e1", "as echo").encode()).await.unwrap();
        }
    });
    testkit::eventually("the gateway knows the extension", Duration::from_secs(10), async || {
        let response = crate::http::post(&gate, "/kp1/demo-v1/liar/t1/json", "x").await;
        (response.status() == 500).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_says_that_an_endpoint_is_not_here_and_all_together_say_nothing() {
    let world = World::new().await;
    let gate = world.gate(&[("kpc.push_deadline_ms", "300")]).await;
    assert_eq!(Reports::of(&world, at(&gate), &push("e1", "x")).await.next().await, Some(404));
    assert_eq!(Reports::of(&world, everybody(), &push("e1", "x")).await.next().await, None);
    // A device that does not acknowledge.
    let mut client = device(&gate, 4).await;
    assert_eq!(Reports::of(&world, at(&gate), &push("e1", "x")).await.taken().await, Some(504));
    // A push that comes too late is not delivered.
    let late = ExtensionData { timestamp: now_ms() - 10_000, ..push("e1", "late") };
    assert_eq!(Reports::of(&world, at(&gate), &late).await.next().await, None);
    client.message(PUSHED).await;
    assert!(client.is_silent().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_leaves_after_its_deadline() {
    let world = World::new().await;
    let long = LONG.to_string();
    let settings =
        [("kpc.limits.unacknowledged_per_connection", "1"), ("kpc.push_deadline_ms", long.as_str())];
    let gate = world.gate(&settings).await;
    let mut client = device(&gate, 5).await;
    let lasting = |payload| ExtensionData { timeout: LONG, ..push("e1", payload) };
    let first = Reports::of(&world, at(&gate), &lasting("first")).await;
    let (_, id) = pushed(&mut client).await;
    // The client takes no more before it has acknowledged that one; so these wait in the gateway.
    let short = ExtensionData { timeout: 300, ..push("e1", "short") };
    let reported = Reports::of(&world, at(&gate), &short).await;
    let unreported = push("e1", "short, unreported");
    let unreported = ExtensionData { timeout: 1, timestamp: now_ms() + 200, ..unreported };
    world.client.publish(at(&gate), unreported.encode()).await.unwrap();
    let third = Reports::of(&world, at(&gate), &lasting("third")).await;
    assert_eq!(reported.taken().await, Some(404), "nothing of it was written, and nothing will be");
    testkit::eventually("the other's deadline has passed", Duration::from_secs(10), async || {
        (now_ms() > unreported.timestamp + 50).then_some(())
    })
    .await;
    client.ack(id).await;
    assert_eq!(first.taken().await, Some(200));
    let message = client.next().await;
    let Packet::Publish { payload, id, properties, .. } = message else { panic!("{message:?}") };
    assert_eq!(payload, b"third");
    // Message Expiry Interval: what is left, in s.
    let expiry = properties.iter().find(|(property, _)| *property == 0x02).unwrap();
    let expiry = u32::from_be_bytes(expiry.1.as_slice().try_into().unwrap());
    assert!((1..=60).contains(&expiry), "{expiry}");
    client.ack(id).await;
    assert_eq!(third.taken().await, Some(200));
    assert!(client.is_silent().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_connection_tells_what_was_written_from_what_was_not() {
    let world = World::new().await;
    let long = LONG.to_string();
    let settings =
        [("kpc.limits.unacknowledged_per_connection", "1"), ("kpc.push_deadline_ms", long.as_str())];
    let gate = world.gate(&settings).await;
    let lasting = || ExtensionData { timeout: LONG, ..push("e1", "x") };
    for subject in [at(&gate), everybody()] {
        let mut client = device(&gate, 4).await;
        let first = Reports::of(&world, subject.clone(), &lasting()).await;
        pushed(&mut client).await;
        let mut second = Reports::of(&world, subject, &lasting()).await;
        assert_eq!(second.next().await, Some(102));
        client.disconnect().await;
        assert_eq!(first.taken().await, Some(504), "the device may have it");
        assert_eq!(second.next().await, Some(404), "and never has that one");
    }
}

/// The gateway may speak where an extension may not; it must not do so for one.
#[tokio::test(flavor = "multi_thread")]
async fn a_report_goes_only_where_reports_are_awaited() {
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    let mut client = device(&gate, 4).await;
    let mut heard = world.listen("kaa.v1.>".to_owned()).await;
    let others = ["kaa.v1.service.dcx.esp.ClientData", "kaa.v1.events.kpc.endpoint.connectivity.connected"];
    for reply in others {
        for subject in [at(&gate), everybody()] {
            let data = push("e1", "forged").encode();
            world.client.publish_with_reply(subject, reply, data).await.unwrap();
        }
    }
    let reports = Reports::of(&world, everybody(), &push("e1", "true")).await;
    assert_eq!(client.message(PUSHED).await, "true");
    assert_eq!(reports.taken().await, Some(200));
    while let Ok(Some(message)) = tokio::time::timeout(Duration::from_millis(100), heard.next()).await {
        let is_report = message.payload.windows(6).any(|part| part == b"push-1");
        assert!(!is_report || !others.contains(&message.subject.as_str()), "{}", message.subject);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_for_its_client_was_not_written() {
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    let mut client = Client::open(gate.mqtt, 5).await;
    // CONNECT with a Maximum Packet Size of 100 bytes.
    client.send(b"\x10\x13\x00\x04MQTT\x05\x02\x00\x3C\x05\x27\x00\x00\x00\x64\x00\x01c").await;
    assert!(matches!(client.next().await, Packet::ConnAck { code: 0, .. }));
    let id = client.publish("kp1/demo-v1/echo/t1/json", "x", 1).await;
    client.acknowledged(id).await;
    let large = ExtensionData { payload: Some(Bytes::from(vec![b'x'; 200])), ..push("e1", "") };
    assert_eq!(Reports::of(&world, everybody(), &large).await.taken().await, Some(404));
    assert!(client.is_silent().await);
}
