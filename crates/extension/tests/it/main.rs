//! An extension on a real NATS, spoken to as the gateway does.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod push;
mod topics;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use extension::{
    Endpoint, Extension, Gateway, Json, Limits, Message, Parameters, Payload, Refusal, Registration, Routes,
};
use ids::CorrelationId;
use ism::esp::CLIENT_DATA;
use ism::{ClientData, ExtensionData, Record as _};
use runtime::{Context, Platform, Service, Settings, entry, now_ms};
use serde_json::{Value, json};
use testkit::eventually;

struct Echo {
    gateway: Arc<Gateway>,
}

impl Extension for Echo {
    const NAME: &'static str = "echo";

    fn routes(routes: Routes<Self>) -> Routes<Self> {
        routes
            .on("json", Echo::json)
            .on("plain/{metric}", Echo::plain)
            .on("panic", Echo::panic)
            .on("never", Echo::never)
            .on("wait", Echo::wait)
            .on("push", Echo::push)
    }
}

impl Echo {
    async fn json(
        self: Arc<Self>,
        from: Endpoint,
        Json(sample): Json<Value>,
    ) -> Result<Json<Value>, Refusal> {
        if sample.is_null() {
            return Err(Refusal::bad_request("a sample may not be null"));
        }
        Ok(Json(json!({ "from": from.id, "sample": sample })))
    }

    async fn plain(
        self: Arc<Self>,
        parameters: Parameters,
        Payload(payload): Payload,
    ) -> Result<Bytes, Refusal> {
        Ok(Bytes::from([parameters.get("metric").as_bytes(), b"=", &payload[..]].concat()))
    }

    async fn panic(self: Arc<Self>) -> Result<(), Refusal> {
        panic!("as a handler with a defect does")
    }

    async fn never(self: Arc<Self>) -> Result<(), Refusal> {
        std::future::pending().await
    }

    /// Answers how long the device likes to wait and has to, in s.
    async fn wait(self: Arc<Self>, message: Message) -> Result<Json<Value>, Refusal> {
        let preferred = message.prefer_wait.map(|wait| wait.as_secs());
        Ok(Json(json!({ "preferred": preferred, "left": message.remaining().as_secs() })))
    }

    /// Pushes to the sender and answers what became of it.
    async fn push(self: Arc<Self>, from: Endpoint, Json(ms): Json<u64>) -> Result<Bytes, Refusal> {
        let (id, payload) = (CorrelationId::parse("push-1").unwrap(), Bytes::from_static(b"[]"));
        let timeout = Duration::from_millis(ms);
        let version = Some(&from.app_version_name);
        let delivery = self.gateway.push(&from.id, version, "command/reboot", payload, &id, timeout).await;
        Ok(Bytes::from(format!("{delivery:?}")))
    }
}

struct EchoService;

#[derive(serde::Deserialize)]
struct NoConfig {}

impl Service for EchoService {
    const NAME: &'static str = "echo";
    type Config = NoConfig;

    fn subjects() -> runtime::Subjects {
        extension::subjects()
    }

    async fn start(_config: NoConfig, context: Context) -> anyhow::Result<()> {
        let gateway = Arc::new(Gateway::new(context.clone()));
        let echo = Arc::new(Echo { gateway: gateway.clone() });
        extension::serve_with(&context, echo, Limits::default(), gateway).await
    }
}

struct Running {
    nats: testkit::Nats,
    client: async_nats::Client,
    platform: Platform,
}

async fn start() -> Running {
    let nats = testkit::nats().await;
    let layers = [
        ("nats.url", nats.url.as_str()),
        ("http.listen", "127.0.0.1:0"),
        ("http.auth.api_key", "a-key-for-tests-0123456789abcdef"),
        ("http.auth.tenant", "test"),
        ("http.auth.tenant_manager", "false"),
    ];
    let layers = layers.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
    let settings = Settings::from_layers(None, Vec::new(), layers);
    let mut platform = Platform::start(&settings, &[entry::<EchoService>()], &["echo"], None).await.unwrap();
    platform.ready().await.unwrap();
    Running { client: nats.client().await, nats, platform }
}

fn message(resource_path: &str, payload: &str, timeout: i64) -> ClientData {
    ClientData {
        correlation_id: "correlation-1".to_owned(),
        timestamp: now_ms(),
        timeout,
        app_version_name: "demo-v1".to_owned(),
        endpoint_id: Some("endpoint-1".to_owned()),
        resource_path: resource_path.to_owned(),
        request_id: Some(42),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        config_name: None,
    }
}

impl Running {
    async fn ask(&self, resource_path: &str, payload: &str, timeout: i64) -> ExtensionData {
        let subject = CLIENT_DATA.at("echo");
        let answer =
            self.client.request(subject, message(resource_path, payload, timeout).encode()).await.unwrap();
        ExtensionData::decode(&answer.payload).unwrap()
    }
}

fn text(data: &ExtensionData) -> &str {
    std::str::from_utf8(data.payload.as_ref().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn handlers_answer_by_path() {
    let running = start().await;
    let answer = running.ask("/json", "{\"a\":1}", 10_000).await;
    assert_eq!((answer.status_code, answer.request_id), (200, Some(42)));
    assert_eq!(answer.correlation_id, "correlation-1");
    assert_eq!(text(&answer), r#"{"from":"endpoint-1","sample":{"a":1}}"#);
    assert_eq!(text(&running.ask("/plain/temperature", "47%", 10_000).await), "temperature=47%");

    let refused = running.ask("/json", "null", 10_000).await;
    assert_eq!(
        (refused.status_code, refused.reason_phrase.as_deref()),
        (400, Some("a sample may not be null"))
    );
    assert_eq!(running.ask("/json", "{", 10_000).await.status_code, 400);
    let unknown = running.ask("/jsonn", "{}", 10_000).await;
    assert_eq!(unknown.status_code, 404);
    assert!(unknown.reason_phrase.unwrap().contains("/plain/{metric}"));
    running.platform.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_fails_or_hangs_harms_only_its_message() {
    let running = start().await;
    assert_eq!(running.ask("/panic", "", 10_000).await.status_code, 500);
    assert_eq!(running.ask("/never", "", 100).await.status_code, 504);
    assert_eq!(running.ask("/json", "1", 10_000).await.status_code, 200);
    running.client.publish(CLIENT_DATA.at("echo"), Bytes::from_static(b"\xff\xff")).await.unwrap();
    assert_eq!(running.ask("/json", "1", 10_000).await.status_code, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_registration_tells_the_gateway_what_there_is() {
    let running = start().await;
    let registration = eventually("registered", Duration::from_secs(10), async || {
        let bucket = extension::bucket(&running.client).await.ok()?;
        let value = bucket.get("echo").await.ok()??;
        serde_json::from_slice::<Registration>(&value).ok()
    })
    .await;
    let paths = ["/json", "/plain/{metric}", "/panic", "/never", "/wait", "/push"];
    assert_eq!(registration.resource_paths, paths);
    assert!(registration.endpoint_aware);
    assert_eq!(registration.protocol, "esp");
    drop(running.nats);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_may_ask_to_wait() {
    let running = start().await;
    let ask = async |prefer: Option<&str>| {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("X-Other", "1");
        if let Some(prefer) = prefer {
            headers.insert(extension::PREFER, prefer);
        }
        let payload = message("/wait", "", 60_000).encode();
        let answer = running.client.request_with_headers(CLIENT_DATA.at("echo"), headers, payload).await;
        let data = ExtensionData::decode(&answer.unwrap().payload).unwrap();
        serde_json::from_str::<Value>(text(&data)).unwrap()
    };
    let told = ask(Some("wait=7")).await;
    assert_eq!(told["preferred"], 7);
    assert!(told["left"].as_u64().unwrap() > 30, "{told}");
    assert_eq!(ask(Some("respond-async")).await["preferred"], Value::Null);
    assert_eq!(ask(None).await["preferred"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extension_that_stops_waits_with_nobody() {
    let running = start().await;
    let mut headers = async_nats::HeaderMap::new();
    headers.insert(extension::PREFER, "wait=60");
    let payload = message("/never", "", 60_000).encode();
    let inbox = running.client.new_inbox();
    let mut answers = running.client.subscribe(inbox.clone()).await.unwrap();
    let subject = CLIENT_DATA.at("echo");
    running.client.publish_with_reply_and_headers(subject, inbox, headers, payload).await.unwrap();
    // What came before this one has been taken.
    assert_eq!(running.ask("/json", "1", 10_000).await.status_code, 200);
    running.platform.stop().await.unwrap();
    let answer = futures::StreamExt::next(&mut answers).await.unwrap();
    assert_eq!(ExtensionData::decode(&answer.payload).unwrap().status_code, 504);
}
