//! Topics outside of 1/KP, with the rights on NATS that such an extension has.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use extension::{
    Extension, Gateway, Limits, Refusal, Registration, Routes, TopicPublication, TopicPush, TopicSubscription,
};
use futures::StreamExt as _;
use ids::{InstanceName, ReplicaId};
use ism::topics::{
    MESSAGE, PUBLISH_REQUEST, PUBLISH_RESPONSE, SUBSCRIBE_REQUEST, SUBSCRIBE_RESPONSE, TopicDeliveryReport,
    TopicMessage, TopicPublishRequest, TopicPublishResponse, TopicSubscribeRequest, TopicSubscribeResponse,
};
use ism::{Envelope as _, Record as _};
use runtime::{Context, Platform, Service, Settings, entry, now_ms};
use testkit::eventually;

const PASSWORD: &str = "secret-of-the-tests";

struct Topical {
    gateway: Arc<Gateway>,
}

impl Extension for Topical {
    const NAME: &'static str = "topical";
    const TOPICS: &'static [&'static str] = &["cmd/{thing}/req", "{group}/request"];

    fn routes(routes: Routes<Self>) -> Routes<Self> {
        routes
    }

    async fn subscribe(self: Arc<Self>, subscription: TopicSubscription) -> Result<(), Refusal> {
        assert_ne!(subscription.topic_filter, "cmd/panic/req");
        if subscription.credentials_ids == ["good"] && subscription.client_id == "c" {
            return Ok(());
        }
        Err(Refusal::new(403, "not with these credentials"))
    }

    /// Sends back what came, and tells what became of it.
    async fn publish(self: Arc<Self>, publication: TopicPublication) -> Result<(), Refusal> {
        assert_eq!((publication.packet_id, publication.is_duplicate), (Some(7), true));
        let push = TopicPush {
            tenant: publication.tenant,
            credentials_id: publication.credentials_ids.into_iter().next(),
            topic: publication.topic,
            payload: publication.payload,
            correlation_data: publication.correlation_data,
            response_topic: publication.response_topic,
        };
        let timeout = Duration::from_millis(700);
        let delivery = self.gateway.send(push, &publication.correlation_id, timeout).await;
        Err(Refusal::new(409, format!("{delivery:?}")))
    }
}

struct TopicalService;

#[derive(serde::Deserialize)]
struct NoConfig {}

impl Service for TopicalService {
    const NAME: &'static str = "topical";
    type Config = NoConfig;

    fn subjects() -> runtime::Subjects {
        extension::topic_subjects(extension::subjects())
    }

    async fn start(_config: NoConfig, context: Context) -> anyhow::Result<()> {
        let gateway = Arc::new(Gateway::new(context.clone()));
        let topical = Arc::new(Topical { gateway: gateway.clone() });
        extension::serve_with(&context, topical, Limits::default(), gateway).await
    }
}

struct Running {
    client: async_nats::Client,
    _nats: testkit::Nats,
    _platform: Platform,
}

async fn start() -> Running {
    let users = runtime::nats_users(&[entry::<TopicalService>()]).unwrap();
    let users = runtime::nats_authorization(&users, |_| PASSWORD.to_owned());
    let test = format!("    {{ user: test, password: {PASSWORD} }}\n");
    let nats = testkit::nats_with(&format!("authorization {{\n  users: [\n{users}{test}  ]\n}}\n")).await;
    let layers = [
        ("nats.url", nats.url.as_str()),
        ("nats.users.topical", PASSWORD),
        ("nats.users.edge", PASSWORD),
        ("http.listen", "127.0.0.1:0"),
        ("http.auth.api_key", "a-key-for-tests-0123456789abcdef"),
        ("http.auth.tenant", "test"),
        ("http.auth.tenant_manager", "false"),
    ];
    let layers = layers.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
    let settings = Settings::from_layers(None, Vec::new(), layers);
    let client = nats.client_as("test", PASSWORD).await;
    let entries = [entry::<TopicalService>()];
    let mut platform = Platform::start(&settings, &entries, &["topical"], None).await.unwrap();
    platform.ready().await.unwrap();
    Running { client, _nats: nats, _platform: platform }
}

fn topical() -> InstanceName {
    InstanceName::parse("topical").unwrap()
}

impl Running {
    /// Asks as the gateway does; the answer's payload.
    async fn ask(
        &self,
        request: ism::subject::Message,
        answer: ism::subject::Message,
        payload: Bytes,
    ) -> Bytes {
        let name = topical();
        let reply = answer.by(&name).reply(&ReplicaId::parse("kpc-0").unwrap(), next_slot());
        let mut answers = self.client.subscribe(reply.clone()).await.unwrap();
        self.client.publish_with_reply(request.at("topical"), reply, payload).await.unwrap();
        let answer = tokio::time::timeout(Duration::from_secs(20), answers.next()).await.unwrap();
        answer.unwrap().payload
    }

    async fn subscribe(&self, filter: &str, credentials_id: &str) -> TopicSubscribeResponse {
        let request = TopicSubscribeRequest {
            correlation_id: "question-1".to_owned(),
            timestamp: now_ms(),
            timeout: 10_000,
            tenant_id: "acme".to_owned(),
            client_id: "c".to_owned(),
            credentials_ids: vec![credentials_id.to_owned()],
            topic_filter: filter.to_owned(),
        };
        let answer = self.ask(SUBSCRIBE_REQUEST, SUBSCRIBE_RESPONSE, request.encode()).await;
        TopicSubscribeResponse::decode(&answer).unwrap()
    }

    /// What the extension says of the message that it sent when it got this one.
    async fn publish(&self) -> String {
        let request = TopicPublishRequest {
            correlation_id: "message-1".to_owned(),
            timestamp: now_ms(),
            timeout: 10_000,
            tenant_id: "acme".to_owned(),
            client_id: "c".to_owned(),
            credentials_ids: vec!["good".to_owned()],
            topic: "cmd/t1/req".to_owned(),
            payload: Bytes::from_static(b"x"),
            packet_id: Some(7),
            is_duplicate: true,
            correlation_data: Some(Bytes::from_static(b"7")),
            response_topic: Some("cmd/t1/resp".to_owned()),
        };
        let answer = self.ask(PUBLISH_REQUEST, PUBLISH_RESPONSE, request.encode()).await;
        let answer = TopicPublishResponse::decode(&answer).unwrap();
        assert_eq!((answer.correlation_id.as_str(), answer.status_code), ("message-1", 409));
        answer.reason_phrase.unwrap()
    }
}

/// A number for each question.
fn next_slot() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_extension_decides_who_subscribes() {
    let running = start().await;
    let granted = running.subscribe("cmd/t1/req", "good").await;
    assert_eq!((granted.correlation_id.as_str(), granted.status_code), ("question-1", 200));
    let refused = running.subscribe("cmd/t1/req", "other").await;
    assert_eq!(refused.status_code, 403);
    assert_eq!(refused.reason_phrase.as_deref(), Some("not with these credentials"));
    assert_eq!(running.subscribe("cmd/panic/req", "good").await.status_code, 500);
    assert_eq!(
        running.subscribe("cmd/t1/req", "good").await.status_code,
        200,
        "the panic harmed nothing else"
    );
    let bucket = extension::bucket(&running.client).await.unwrap();
    let registration = eventually("registered", Duration::from_secs(10), async || {
        serde_json::from_slice::<Registration>(&bucket.get("topical").await.ok()??).ok()
    })
    .await;
    assert_eq!(registration.topics, ["cmd/{thing}/req", "{group}/request"]);
    // As extensions announced themselves before there were topics.
    let old = r#"{"name":"x","version":"1","protocol":"esp","endpointAware":true}"#;
    assert!(serde_json::from_str::<Registration>(old).unwrap().topics.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_reported_as_certainly_as_it_is_known() {
    let running = start().await;
    assert_eq!(running.publish().await, "Offline", "no gateway runs");
    let name = topical();
    let mut messages = running.client.subscribe(MESSAGE.by(&name).at("kpc")).await.unwrap();
    running.client.flush().await.unwrap();
    for (reports, expected) in [
        (&[102, 200][..], "Delivered"),
        (&[102, 504, 102, 200], "Delivered"),
        (&[102, 504], "Unknown"),
        (&[102], "Unknown"),
        (&[102, 404], "Offline"),
        (&[], "Offline"),
    ] {
        let play = async {
            let message = messages.next().await.unwrap();
            let sent = TopicMessage::decode(&message.payload).unwrap();
            assert_eq!((sent.tenant_id.as_str(), sent.topic.as_str()), ("acme", "cmd/t1/req"));
            assert_eq!((sent.credentials_id.as_deref(), sent.payload.as_ref()), (Some("good"), &b"x"[..]));
            assert_eq!(sent.correlation_data.as_deref(), Some(&b"7"[..]));
            assert_eq!((sent.response_topic.as_deref(), sent.timeout()), (Some("cmd/t1/resp"), 700));
            for status_code in reports {
                let report =
                    TopicDeliveryReport { status_code: *status_code, ..TopicDeliveryReport::default() };
                running.client.publish(message.reply.clone().unwrap(), report.encode()).await.unwrap();
            }
        };
        let (delivery, ()) = tokio::join!(running.publish(), play);
        assert_eq!(delivery, expected, "{reports:?}");
    }
}
