//! Topics outside of 1/KP, served by an extension that the tests play.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use ids::InstanceName;
use ism::topics::{
    MESSAGE, PUBLISH_REQUEST, SUBSCRIBE_REQUEST, TopicDeliveryReport, TopicMessage, TopicPublishRequest,
    TopicPublishResponse, TopicSubscribeRequest, TopicSubscribeResponse,
};
use ism::{Envelope as _, Record as _};
use runtime::now_ms;
use testkit::eventually;

use crate::ccm::{Logins, log_in};
use crate::client::{Client, Packet, Properties, text};
use crate::world::World;

/// Extension `topical`: what it answers depends on the second level of the topic.
struct Topical {
    client: async_nats::Client,
    published: Arc<Mutex<Vec<TopicPublishRequest>>>,
    subscribed: Arc<Mutex<Vec<TopicSubscribeRequest>>>,
    /// Where the answers to publications on silent topics are awaited.
    unanswered: Arc<Mutex<Vec<async_nats::Subject>>>,
}

fn status(topic: &str) -> Option<i32> {
    match topic.split('/').nth(1) {
        Some("silent") => None,
        Some("denied") => Some(403),
        Some("bad") => Some(400),
        Some("down") => Some(503),
        Some("lost") => Some(504),
        _ => Some(200),
    }
}

impl Topical {
    async fn start(world: &World) -> Self {
        let registration = serde_json::json!({
            "name": "topical", "version": "1", "protocol": "esp", "endpointAware": true, "maxPayloadBytes": 1_000,
            "topics": ["cmd/{thing}/req", "cmd/{thing}/resp", "{group}/request"],
        });
        let bucket = extension::bucket(&world.client).await.unwrap();
        bucket.put("topical", registration.to_string().into()).await.unwrap();
        let client = world.client.clone();
        let topical = Self {
            client: client.clone(),
            published: Arc::default(),
            subscribed: Arc::default(),
            unanswered: Arc::default(),
        };
        let mut requests = world.listen(SUBSCRIBE_REQUEST.at("topical")).await;
        let (answering, asked) = (client.clone(), topical.subscribed.clone());
        tokio::spawn(async move {
            while let Some(message) = requests.next().await {
                let request = TopicSubscribeRequest::decode(&message.payload).unwrap();
                asked.lock().unwrap().push(request.clone());
                if request.topic_filter.starts_with("cmd/early") {
                    for number in 0..20 {
                        let early = topic_message("cmd/early/req", &format!("{number}"));
                        answering.publish(subject("topical"), early.encode()).await.unwrap();
                    }
                }
                let Some(status_code) = status(&request.topic_filter) else { continue };
                let (correlation_id, timestamp) = (request.correlation_id, now_ms());
                let answer =
                    TopicSubscribeResponse { correlation_id, timestamp, status_code, ..Default::default() };
                answering.publish(message.reply.unwrap(), answer.encode()).await.unwrap();
            }
        });
        let mut requests = world.listen(PUBLISH_REQUEST.at("topical")).await;
        let (asked, unanswered) = (topical.published.clone(), topical.unanswered.clone());
        tokio::spawn(async move {
            while let Some(message) = requests.next().await {
                let request = TopicPublishRequest::decode(&message.payload).unwrap();
                asked.lock().unwrap().push(request.clone());
                let Some(status_code) = status(&request.topic) else {
                    unanswered.lock().unwrap().push(message.reply.unwrap());
                    continue;
                };
                let (correlation_id, timestamp) = (request.correlation_id, now_ms());
                let answer =
                    TopicPublishResponse { correlation_id, timestamp, status_code, ..Default::default() };
                client.publish(message.reply.unwrap(), answer.encode()).await.unwrap();
            }
        });
        topical
    }

    /// Sends a message; where reports on it come in.
    async fn send(&self, message: &TopicMessage) -> async_nats::Subscriber {
        let inbox = self.client.new_inbox();
        let reports = self.client.subscribe(inbox.clone()).await.unwrap();
        self.client.publish_with_reply(subject("topical"), inbox, message.encode()).await.unwrap();
        self.client.flush().await.unwrap();
        reports
    }

    /// Answers the publication that waits on a silent topic, once there is one.
    async fn answer(&self, status_code: i32) {
        let reply = eventually("a publication waits", Duration::from_secs(10), async || {
            self.unanswered.lock().unwrap().pop()
        })
        .await;
        let answer = TopicPublishResponse { status_code, ..TopicPublishResponse::default() };
        self.client.publish(reply, answer.encode()).await.unwrap();
    }

    fn last_published(&self) -> TopicPublishRequest {
        self.published.lock().unwrap().last().unwrap().clone()
    }
}

fn subject(extension: &str) -> String {
    MESSAGE.by(&InstanceName::parse(extension).unwrap()).at("kpc")
}

fn topic_message(topic: &str, payload: &str) -> TopicMessage {
    TopicMessage {
        correlation_id: "message-1".to_owned(),
        timestamp: now_ms(),
        timeout: 10_000,
        tenant_id: "acme".to_owned(),
        topic: topic.to_owned(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        ..TopicMessage::default()
    }
}

/// The status of the next report.
async fn report(reports: &mut async_nats::Subscriber) -> i32 {
    let message = tokio::time::timeout(Duration::from_secs(20), reports.next()).await.unwrap().unwrap();
    let report = TopicDeliveryReport::decode(&message.payload).unwrap();
    assert_eq!((report.correlation_id.as_str(), report.timeout()), ("message-1", 0));
    report.status_code
}

/// The next packet, a PUBLISH.
async fn published(client: &mut Client) -> (String, String, u8, u16, Properties) {
    match client.next().await {
        Packet::Publish { topic, payload, qos, id, properties } => {
            (topic, String::from_utf8(payload).unwrap(), qos, id, properties)
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_extension_says_who_may_subscribe() {
    let world = World::new().await;
    let topical = Topical::start(&world).await;
    let _logins = Logins::start(&world, &["good"]).await;
    let gate = world.gate(&[("kpc.deadline_ms", "1000")]).await;
    let filters = [
        "cmd/t1/req",
        "cmd/+/resp",
        "group/request",
        "cmd/denied/req",
        "cmd/bad/req",
        "cmd/down/req",
        "cmd/silent/req",
        "cmd/#",
        "+/t1/req",
        "elsewhere/t1",
        "kp1/request",
    ];
    let cases = [
        (4, [1, 1, 1, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80]),
        (5, [1, 1, 1, 0x87, 0x8F, 0x80, 0x80, 0x8F, 0x8F, 0x8F, 0x8F]),
    ];
    for (version, codes) in cases {
        let mut client = log_in(gate.mqtt, version, "thing", "good").await;
        assert_eq!(client.subscribe(&filters, 1).await, codes, "MQTT {version}");
    }
    let asked = topical.subscribed.lock().unwrap()[0].clone();
    assert_eq!((asked.tenant_id.as_str(), asked.client_id.as_str()), ("acme", "thing"));
    assert_eq!((asked.credentials_ids, asked.topic_filter.as_str()), (vec!["good".to_owned()], "cmd/t1/req"));
    assert!(asked.timeout > 0 && asked.timeout <= 1_000);
    // Whoever has shown nothing is not even asked about.
    let count = topical.subscribed.lock().unwrap().len();
    let mut stranger = Client::connect(gate.mqtt, 5, "thing").await;
    assert_eq!(stranger.subscribe(&["cmd/t1/req"], 1).await, [0x8F]);
    let id = stranger.publish("cmd/t1/req", "x", 1).await;
    assert_eq!(stranger.acknowledged(id).await, 0x90);
    assert_eq!(topical.subscribed.lock().unwrap().len(), count);
    assert!(topical.published.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_publishes_is_acknowledged_when_the_extension_has_it() {
    let world = World::new().await;
    let topical = Topical::start(&world).await;
    let _logins = Logins::start(&world, &["good"]).await;
    let gate = world.gate(&[("kpc.deadline_ms", "1000")]).await;
    let mut five = log_in(gate.mqtt, 5, "app", "good").await;
    let properties = [text(0x09, "order-1"), text(0x08, "cmd/t1/resp")];
    let id = five.publish_with("cmd/t1/req", "{}", 1, &properties).await;
    assert_eq!(five.acknowledged(id).await, 0);
    let asked = topical.last_published();
    assert_eq!((asked.tenant_id.as_str(), asked.client_id.as_str()), ("acme", "app"));
    assert_eq!((asked.topic.as_str(), asked.payload.as_ref()), ("cmd/t1/req", &b"{}"[..]));
    assert_eq!((asked.packet_id, asked.is_duplicate), (Some(id.into()), false));
    assert_eq!(asked.correlation_data.as_deref(), Some(&b"order-1"[..]));
    assert_eq!(asked.response_topic.as_deref(), Some("cmd/t1/resp"));
    assert_eq!(asked.credentials_ids, ["good"]);
    for (topic, code) in
        [("cmd/denied/req", 0x87), ("cmd/bad/req", 0x99), ("cmd/down/req", 0x80), ("cmd/lost/req", 0x80)]
    {
        let id = five.publish(topic, "x", 1).await;
        assert_eq!(five.acknowledged(id).await, code, "{topic}");
    }
    let id = five.publish("cmd/t1/req", "x".repeat(1_001), 1).await;
    assert_eq!(five.acknowledged(id).await, 0x97);
    assert!(five.is_silent().await, "there is no /error topic");
    let asked_of =
        |topic: &str| topical.published.lock().unwrap().iter().filter(|it| it.topic == topic).count();
    assert!(asked_of("cmd/down/req") > 1, "what is not begun is repeated");
    assert_eq!(asked_of("cmd/lost/req"), 1, "what may be done is not");

    let mut three = log_in(gate.mqtt, 4, "old", "good").await;
    three.publish("group/request", "once", 0).await;
    eventually("it comes without a receipt too", Duration::from_secs(10), async || {
        let last = topical.last_published();
        (last.payload == "once").then_some(last)
    })
    .await;
    assert_eq!(topical.last_published().packet_id, None);
    // PUBLISH with DUP, QoS 1 and packet id 7.
    three.send(b"\x3A\x0F\x00\x0Acmd/t1/req\x00\x07x").await;
    assert_eq!(three.acknowledged(7).await, 0);
    let asked = topical.last_published();
    assert_eq!((asked.packet_id, asked.is_duplicate, asked.correlation_data), (Some(7), true, None));
    let id = three.publish("cmd/denied/req", "x", 1).await;
    assert_eq!(three.acknowledged(id).await, 0);
    three.publish("cmd/down/req", "x", 1).await;
    assert_eq!(three.next_or_end().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn publications_on_one_topic_are_handed_over_one_after_the_other() {
    let world = World::new().await;
    let topical = Topical::start(&world).await;
    let _logins = Logins::start(&world, &["good"]).await;
    let gate = world.gate(&[]).await;
    let mut client = log_in(gate.mqtt, 4, "app", "good").await;
    let mut ids = Vec::new();
    for payload in ["0", "1", "2", "3"] {
        ids.push(client.publish("cmd/silent/req", payload, 1).await);
    }
    // Another topic has an order of its own; but receipts come in the order of what was sent (MQTT-4.6.0-2).
    client.publish("cmd/t1/req", "other", 0).await;
    let payloads = || -> Vec<Bytes> {
        topical.published.lock().unwrap().iter().map(|request| request.payload.clone()).collect()
    };
    eventually("the other one is handed over", Duration::from_secs(10), async || {
        payloads().iter().any(|payload| payload == "other").then_some(())
    })
    .await;
    assert_eq!(payloads().len(), 2, "of one topic there is one");
    for id in &ids[..2] {
        topical.answer(200).await;
        assert_eq!(client.acknowledged(*id).await, 0);
    }
    // The third may be done or not, and is sent again; what was behind it must not be before it then.
    topical.answer(504).await;
    assert_eq!(client.next_or_end().await, None);
    let mut again = log_in(gate.mqtt, 4, "app", "good").await;
    let id = again.publish("cmd/silent/req", "2 again", 1).await;
    topical.answer(200).await;
    assert_eq!(again.acknowledged(id).await, 0);
    let silent: Vec<_> = payloads().into_iter().filter(|payload| payload != "other").collect();
    assert_eq!(silent, ["0", "1", "2", "2 again"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_message_comes_before_the_suback_and_none_is_lost_before_it() {
    let world = World::new().await;
    let topical = Topical::start(&world).await;
    let _logins = Logins::start(&world, &["good"]).await;
    let gate = world.gate(&[]).await;
    for round in 0..20 {
        let mut client = log_in(gate.mqtt, if round % 2 == 0 { 4 } else { 5 }, "thing", "good").await;
        let properties: &[u8] = if round % 2 == 0 { &[] } else { &[0] };
        let filters = b"\x00\x0Dcmd/early/req\x01\x00\x0Acmd/t1/req\x01";
        let length = u8::try_from(2 + properties.len() + filters.len()).unwrap();
        client.send(&[&[0x82, length, 0, 9], properties, filters].concat()).await;
        // Others come while the second filter is asked about.
        topical.send(&topic_message("cmd/early/req", "other")).await;
        let first = client.next().await;
        assert!(matches!(&first, Packet::SubAck { codes, .. } if *codes == [1, 1]), "{first:?}");
        let mut payloads = Vec::new();
        while payloads.len() < 20 {
            let (_, payload, _, id, _) = published(&mut client).await;
            client.ack(id).await;
            payloads.extend(Some(payload).filter(|payload| payload != "other"));
        }
        assert_eq!(payloads, (0..20).map(|number| number.to_string()).collect::<Vec<_>>());
        client.disconnect().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_reaches_its_subscribers_on_every_replica_and_is_reported() {
    let world = World::new().await;
    let topical = Topical::start(&world).await;
    let logins = Logins::start(&world, &["one", "two"]).await;
    let (here, there) = (world.gate(&[]).await, world.gate(&[]).await);
    let mut device = log_in(here.mqtt, 5, "device", "one").await;
    let mut app = log_in(there.mqtt, 4, "app", "two").await;
    assert_eq!(device.subscribe(&["cmd/t1/req"], 2).await, [2]);
    assert_eq!(app.subscribe(&["cmd/+/req", "cmd/t1/req"], 0).await, [0, 0]);

    // One that has them acknowledges it: with QoS 0 it is enough that it is written.
    let message = TopicMessage {
        correlation_data: Some(Bytes::from_static(b"7")),
        response_topic: Some("cmd/t1/resp".to_owned()),
        ..topic_message("cmd/t1/req", "reboot")
    };
    let mut reports = topical.send(&message).await;
    let (topic, payload, qos, id, properties) = published(&mut device).await;
    assert_eq!((topic.as_str(), payload.as_str(), qos), ("cmd/t1/req", "reboot", 1));
    let property =
        |wanted| properties.iter().find(|(id, _)| *id == wanted).map(|(_, value)| value.as_slice());
    assert_eq!((property(0x09), property(0x08)), (Some(&b"7"[..]), Some(&b"cmd/t1/resp"[..])));
    assert!(property(0x02).is_some(), "it expires");
    assert_eq!(published(&mut app).await.2, 0, "once, though two filters match");
    assert!(app.is_silent().await);
    let mut statuses = Vec::new();
    while statuses.len() < 3 {
        statuses.push(report(&mut reports).await);
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [102, 102, 200]);
    device.ack(id).await;
    assert_eq!(report(&mut reports).await, 200);

    // To one only; it is reported after its acknowledgement.
    let to_one =
        TopicMessage { credentials_id: Some("one".to_owned()), ..topic_message("cmd/t1/req", "to one") };
    let mut reports = topical.send(&to_one).await;
    let (_, payload, _, id, _) = published(&mut device).await;
    assert_eq!((payload.as_str(), report(&mut reports).await), ("to one", 102));
    assert!(device.is_silent().await && app.is_silent().await);
    device.ack(id).await;
    assert_eq!(report(&mut reports).await, 200);

    // Written and not acknowledged when the connection ends.
    let mut reports = topical.send(&to_one).await;
    published(&mut device).await;
    logins.revoke(&world, "one").await;
    assert_eq!([report(&mut reports).await, report(&mut reports).await], [102, 504]);

    // Where nobody subscribed nothing is said; of another topic, tenant or extension nobody hears.
    let mut silent = topical.send(&to_one).await;
    topical.send(&topic_message("cmd/t1/resp", "other topic")).await;
    let foreign = TopicMessage { tenant_id: "umbrella".to_owned(), ..topic_message("cmd/t1/req", "foreign") };
    topical.send(&foreign).await;
    world.client.publish(subject("echo"), topic_message("cmd/t1/req", "forged").encode()).await.unwrap();
    let late = TopicMessage { timestamp: now_ms() - 20_000, ..topic_message("cmd/t1/req", "late") };
    topical.send(&late).await;
    let mut reports = topical.send(&topic_message("cmd/t1/req", "last")).await;
    assert_eq!(published(&mut app).await.1, "last");
    assert_eq!([report(&mut reports).await, report(&mut reports).await], [102, 200]);
    assert!(futures::FutureExt::now_or_never(silent.next()).is_none());

    // With one of two filters less it still comes; with none it does not.
    app.unsubscribe("cmd/t1/req").await;
    topical.send(&topic_message("cmd/t1/req", "one filter")).await;
    assert_eq!(published(&mut app).await.1, "one filter");
    app.unsubscribe("cmd/+/req").await;
    topical.send(&topic_message("cmd/t1/req", "no filter")).await;
    assert_eq!(app.subscribe(&["cmd/t2/req"], 1).await, [1]);
    topical.send(&topic_message("cmd/t2/req", "again")).await;
    assert_eq!(published(&mut app).await.1, "again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_never_written_is_reported_so() {
    let world = World::new().await;
    let topical = Topical::start(&world).await;
    let _logins = Logins::start(&world, &["good"]).await;
    let gate = world.gate(&[("kpc.limits.unacknowledged_per_connection", "1")]).await;
    let mut client = log_in(gate.mqtt, 4, "thing", "good").await;
    assert_eq!(client.subscribe(&["cmd/t1/req"], 1).await, [1]);
    let mut first = topical.send(&topic_message("cmd/t1/req", "first")).await;
    let (_, _, _, id, _) = published(&mut client).await;
    let brief = TopicMessage { timeout: 300, ..topic_message("cmd/t1/req", "brief") };
    let mut second = topical.send(&brief).await;
    assert_eq!([report(&mut second).await, report(&mut second).await], [102, 404]);
    client.ack(id).await;
    assert_eq!([report(&mut first).await, report(&mut first).await], [102, 200]);
    let mut third = topical.send(&topic_message("cmd/t1/req", "third")).await;
    assert_eq!(published(&mut client).await.1, "third", "the brief one is not written any more");
    assert_eq!(report(&mut third).await, 102);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_filter_gets_nothing_and_a_will_is_none_of_the_extensions() {
    let world = World::new().await;
    let topical = Topical::start(&world).await;
    let _logins = Logins::start(&world, &["good"]).await;
    let gate = world.gate(&[]).await;
    let mut client = log_in(gate.mqtt, 5, "thing", "good").await;
    assert_eq!(client.subscribe(&["cmd/denied/req", "cmd/t1/req"], 1).await, [0x87, 1]);
    topical.send(&topic_message("cmd/denied/req", "secret")).await;
    topical.send(&topic_message("cmd/t1/req", "open")).await;
    assert_eq!(published(&mut client).await.1, "open");

    let mut leaving = Client::open(gate.mqtt, 5).await;
    let last = crate::ccm::will("cmd/t1/req", "last words");
    leaving.say_connect("leaving", Some(b"good@acme"), Some(b"secret"), last).await.unwrap();
    drop(leaving);
    let mut next = log_in(gate.mqtt, 5, "leaving", "good").await;
    let id = next.publish("cmd/t1/req", "after", 1).await;
    assert_eq!(next.acknowledged(id).await, 0);
    let payloads: Vec<_> = topical.published.lock().unwrap().iter().map(|it| it.payload.clone()).collect();
    assert_eq!(payloads, ["after"]);
}
