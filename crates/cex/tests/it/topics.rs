//! Commands over topics outside of 1/KP (the pattern of AWS IoT); the gateway is played by the test.

mod considerations;
mod registers;
mod rights;

use std::collections::BTreeSet;
use std::ops::Deref;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use ids::InstanceName;
use ism::efmp::EP_LIST_BY_FILTER_REQUEST;
use ism::topics::{MESSAGE, PUBLISH_REQUEST, SUBSCRIBE_REQUEST};
use ism::{
    EndpointListByFilterRequest, EndpointListByFilterResponse, TopicDeliveryReport, TopicMessage,
    TopicPublishRequest, TopicPublishResponse, TopicSubscribeRequest, TopicSubscribeResponse,
};
use runtime::now_ms;
use serde_json::{Value, json};
use testbed::{ACME, PATIENCE, Responder};
use tokio::sync::mpsc;

use crate::bed::Bed;

/// The credentials of two devices and of an application.
const DEVICE: &str = "00000000-0000-4000-8000-000000000001";
const OTHER_DEVICE: &str = "00000000-0000-4000-8000-000000000002";
const APPLICATION: &str = "00000000-0000-4000-8000-00000000000a";
/// An endpoint filter that matches the endpoints `m1` and `m2` of the application `meter`.
const FILTER: &str = "00000000-0000-4000-8000-0000000000f1";

const REQUESTS: &str = "cmd/device1/req";
const RESPONSES: &str = "cmd/device1/resp";

/// Whoever listens: credentials and topic.
type Listeners = Arc<Mutex<BTreeSet<(String, String)>>>;

/// The service and a gateway: the thing `device1` is the endpoint `m1`, `device2` is `m2`; the group `floor` is both.
struct Site {
    bed: Bed,
    listeners: Listeners,
    /// The status with which messages are reported that somebody listens to.
    report: Arc<Mutex<Option<i32>>>,
    messages: mpsc::Receiver<TopicMessage>,
    _gateway: Responder,
    _filters: Responder,
}

impl Deref for Site {
    type Target = Bed;

    fn deref(&self) -> &Bed {
        &self.bed
    }
}

/// What MQTT says of a message beside topic and payload.
#[derive(Clone, Copy, Default)]
struct Packet {
    id: Option<i32>,
    is_duplicate: bool,
    correlation_data: Option<&'static str>,
}

fn packet(id: i32) -> Packet {
    Packet { id: Some(id), ..Packet::default() }
}

impl Packet {
    fn again(self) -> Self {
        Self { is_duplicate: true, ..self }
    }

    fn correlated(self, data: &'static str) -> Self {
        Self { correlation_data: Some(data), ..self }
    }
}

impl Site {
    async fn start(settings: &[(&str, &str)]) -> Self {
        let mut all = vec![
            ("cex.push_timeout_ms", "1000"),
            ("cex.retry_pause_ms", "100"),
            ("cex.retry_pause_max_ms", "400"),
            ("cex.look_every_ms", "50"),
        ];
        all.extend(settings);
        let bed = Bed::start(&all).await;
        let (listeners, report) = (Listeners::default(), Arc::new(Mutex::new(Some(200))));
        let (gateway, messages) = gateway(&bed, listeners.clone(), report.clone()).await;
        let filters =
            Responder::start(&bed.testbed.client, EP_LIST_BY_FILTER_REQUEST.at("epr"), matching).await;
        let site = Self { bed, listeners, report, messages, _gateway: gateway, _filters: filters };
        for (thing, endpoint, credentials) in [("device1", "m1", DEVICE), ("device2", "m2", OTHER_DEVICE)] {
            let body = json!({"endpointId": endpoint, "credentialsIds": [credentials]});
            site.acme().put(&format!("/cex/api/v1/things/{thing}"), &body).await.expect(200);
        }
        let commander = format!("/cex/api/v1/commanders/{APPLICATION}");
        site.acme().put(&commander, &json!({})).await.expect(200);
        let group = json!({"filterId": FILTER, "applicationName": "meter"});
        site.acme().put("/cex/api/v1/groups/floor", &group).await.expect(200);
        site
    }

    /// Subscribes as the gateway does: what comes after the grant is heard.
    async fn subscribe(&self, credentials: &str, filter: &str) -> i32 {
        let listener = (credentials.to_owned(), filter.to_owned());
        self.listeners.lock().unwrap().insert(listener.clone());
        let request = TopicSubscribeRequest {
            correlation_id: "correlation-1".to_owned(),
            timestamp: now_ms(),
            timeout: 10_000,
            tenant_id: ACME.id.to_owned(),
            client_id: client_id(credentials),
            credentials_ids: vec![credentials.to_owned()],
            topic_filter: filter.to_owned(),
        };
        let answer: TopicSubscribeResponse = self.testbed.ask(SUBSCRIBE_REQUEST.at("cex"), &request).await;
        if answer.status_code != 200 {
            self.listeners.lock().unwrap().remove(&listener);
        }
        answer.status_code
    }

    /// Who has these credentials listens no more.
    fn disconnect(&self, credentials: &str) {
        self.listeners.lock().unwrap().retain(|(listener, _)| listener != credentials);
    }

    async fn publish(&self, credentials: &str, topic: &str, payload: &str, packet: Packet) -> i32 {
        let request = TopicPublishRequest {
            correlation_id: "correlation-1".to_owned(),
            timestamp: now_ms(),
            timeout: 10_000,
            tenant_id: ACME.id.to_owned(),
            client_id: client_id(credentials),
            credentials_ids: vec![credentials.to_owned()],
            topic: topic.to_owned(),
            payload: Bytes::copy_from_slice(payload.as_bytes()),
            packet_id: packet.id,
            is_duplicate: packet.is_duplicate,
            correlation_data: packet.correlation_data.map(Bytes::from),
            response_topic: None,
        };
        let answer: TopicPublishResponse = self.testbed.ask(PUBLISH_REQUEST.at("cex"), &request).await;
        answer.status_code
    }

    /// The application commands the first device.
    async fn command(&self, payload: &str, packet: Packet) {
        assert_eq!(self.publish(APPLICATION, REQUESTS, payload, packet).await, 200, "{payload}");
    }

    /// The first device answers.
    async fn answer(&self, payload: &str, packet: Packet) -> i32 {
        self.publish(DEVICE, RESPONSES, payload, packet).await
    }

    /// The next message to whoever listens at a topic.
    async fn next(&mut self, topic: &str) -> TopicMessage {
        let message = tokio::time::timeout(PATIENCE, self.messages.recv()).await;
        let message = message.unwrap_or_else(|_| panic!("nothing comes at {topic}")).unwrap();
        assert_eq!(message.topic, topic, "{:?}", message.payload);
        message
    }

    /// The last command of the type of an endpoint, as REST shows it, once it is in a state.
    async fn last(&self, endpoint: &str, command_type: &str, state: &str) -> Value {
        let path = format!("/cex/api/v1/endpoints/{endpoint}/commands/{command_type}/last");
        let acme = self.acme();
        let look = async || {
            let answer = acme.get(&path).await;
            (answer.status == 200 && answer.body["deliveryState"] == state).then_some(answer.body)
        };
        testkit::eventually(&format!("{endpoint} has its {command_type} {state}"), PATIENCE, look).await
    }

    async fn stop(self) {
        self.bed.testbed.stop().await;
    }
}

fn client_id(credentials: &str) -> String {
    format!("client-{credentials}")
}

/// Reports messages that somebody listens to as the test says, and hands them on; of others it says that nobody does.
async fn gateway(
    bed: &Bed,
    listeners: Listeners,
    report: Arc<Mutex<Option<i32>>>,
) -> (Responder, mpsc::Receiver<TopicMessage>) {
    let (sender, messages) = mpsc::channel(1_024);
    let answer = move |message: TopicMessage| {
        let is_heard = listeners.lock().unwrap().iter().any(|(credentials, filter)| {
            (filter == &message.topic || filter == "cmd/+/resp" && message.topic.ends_with("/resp"))
                && message.credentials_id.as_ref().is_none_or(|wanted| wanted == credentials)
        });
        let status_code = if is_heard { *report.lock().unwrap() } else { Some(404) };
        let correlation_id = message.correlation_id.clone();
        if is_heard {
            // The test may have seen enough.
            drop(sender.try_send(message));
        }
        Some(TopicDeliveryReport {
            correlation_id,
            timestamp: now_ms(),
            timeout: 0,
            status_code: status_code?,
            reason_phrase: None,
        })
    };
    let subject = MESSAGE.by(&InstanceName::parse("cex").unwrap()).at("kpc");
    (Responder::start(&bed.testbed.client, subject, answer).await, messages)
}

fn matching(request: EndpointListByFilterRequest) -> Option<EndpointListByFilterResponse> {
    let is_known = request.filter_id == FILTER;
    let endpoints = ("meter-v1".to_owned(), vec!["m1".to_owned(), "m2".to_owned()]);
    Some(EndpointListByFilterResponse {
        correlation_id: request.correlation_id,
        timestamp: now_ms(),
        timeout: 0,
        filter_id: request.filter_id,
        app_versions_to_endpoints: is_known.then_some(endpoints).into_iter().collect(),
        status_code: if is_known { 200 } else { 404 },
        reason_phrase: None,
    })
}

#[tokio::test]
async fn an_application_commands_a_device_and_hears_its_answer() {
    let mut site = Site::start(&[]).await;
    assert_eq!(site.subscribe(DEVICE, REQUESTS).await, 200);
    assert_eq!(site.subscribe(APPLICATION, RESPONSES).await, 200);
    site.command("light: on", packet(1)).await;
    let command = site.next(REQUESTS).await;
    assert_eq!(command.payload, "light: on");
    assert_eq!(command.credentials_id.as_deref(), Some(DEVICE));
    assert_eq!(command.correlation_data.as_deref(), Some(&b"1"[..]));
    assert_eq!(command.response_topic.as_deref(), Some(RESPONSES));
    assert_eq!(site.answer("SUCCESS: light is on", packet(1)).await, 200);
    let response = site.next(RESPONSES).await;
    assert_eq!(response.payload, "SUCCESS: light is on");
    let last = site.last("m1", "cmd", "EXECUTED").await;
    assert_eq!(last["requestPayload"], "light: on");
    assert_eq!(last["responsePayload"], "SUCCESS: light is on");
    assert_eq!((&last["statusCode"], &last["commandId"]), (&json!(200), &json!(1)));
    // What is JSON stays as it was written, and may say how it went.
    site.command("{\"light\":  \"off\"}", packet(2)).await;
    assert_eq!(site.next(REQUESTS).await.payload, "{\"light\":  \"off\"}");
    let answer = "{ \"commandId\":2, \"statusCode\":503, \"reasonPhrase\":\"no bulb\" }";
    assert_eq!(site.answer(answer, packet(2)).await, 200);
    assert_eq!(site.next(RESPONSES).await.payload, answer);
    let last = site.last("m1", "cmd", "EXECUTED").await;
    assert_eq!((&last["statusCode"], &last["reasonPhrase"]), (&json!(503), &json!("no bulb")));
    assert_eq!(last["requestPayload"], json!({"light": "off"}));
    site.stop().await;
}

#[tokio::test]
async fn a_group_is_commanded_with_one_message_and_each_device_answers() {
    let mut site = Site::start(&[]).await;
    for device in [DEVICE, OTHER_DEVICE] {
        assert_eq!(site.subscribe(device, "floor/request").await, 200);
    }
    assert_eq!(site.subscribe(APPLICATION, "floor/response").await, 200);
    assert_eq!(site.publish(APPLICATION, "floor/request", "report", packet(1)).await, 200);
    // The message comes again: the group is not commanded twice.
    assert_eq!(site.publish(APPLICATION, "floor/request", "report", packet(1).again()).await, 200);
    let mut commanded = BTreeSet::new();
    for _ in 0..2 {
        let message = site.next("floor/request").await;
        assert_eq!(message.payload, "report");
        // Each for one device alone, though both listen at the topic.
        commanded.insert(message.credentials_id.unwrap());
    }
    assert_eq!(commanded, BTreeSet::from([DEVICE.to_owned(), OTHER_DEVICE.to_owned()]));
    for (device, text) in [(DEVICE, "device1: fine"), (OTHER_DEVICE, "device2: cold")] {
        assert_eq!(site.publish(device, "floor/response", text, packet(1)).await, 200);
        assert_eq!(site.next("floor/response").await.payload, text);
    }
    for endpoint in ["m1", "m2"] {
        assert_eq!(site.last(endpoint, "floor", "EXECUTED").await["commandId"], 1);
    }
    // By the id of the filter, too; an unknown group is none.
    let by_id = format!("{FILTER}/request");
    assert_eq!(site.publish(APPLICATION, &by_id, "report", packet(2)).await, 200);
    assert_eq!(site.publish(APPLICATION, "attic/request", "report", packet(3)).await, 404);
    site.stop().await;
}

#[tokio::test]
async fn topics_and_rest_reach_the_same_ledger() {
    let mut site = Site::start(&[]).await;
    // Commanded over REST, the device listens at its topic.
    assert_eq!(site.subscribe(DEVICE, REQUESTS).await, 200);
    let path = "/cex/api/v1/endpoints/m1/commands/cmd?awaitTimeout=0";
    site.acme().post(path, &json!({"light": "on"})).await.expect(202);
    assert_eq!(site.next(REQUESTS).await.payload, "{\"light\":\"on\"}");
    assert_eq!(site.answer("done", packet(1)).await, 200);
    assert_eq!(site.last("m1", "cmd", "EXECUTED").await["responsePayload"], "done");
    // Commanded over a topic by its own id, an endpoint that speaks 1/KP gets the command there and answers there.
    assert_eq!(site.subscribe(APPLICATION, "cmd/m3/resp").await, 200);
    assert_eq!(site.publish(APPLICATION, "cmd/m3/req", "reboot", packet(1)).await, 200);
    let (status, _, commands) = site.say("m3", "/command/cmd", &json!({})).await;
    assert_eq!((status, commands), (200, Some(json!([{"id": 1, "payload": "reboot"}]))));
    site.report("m3", "cmd", json!({"id": 1, "statusCode": 200, "payload": "rebooted"})).await;
    // As the device wrote it, which is JSON there.
    assert_eq!(site.next("cmd/m3/resp").await.payload, "\"rebooted\"");
    site.stop().await;
}
