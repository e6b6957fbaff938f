//! An extension on a real NATS, spoken to as the gateway does.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use extension::{
    Delivery, Endpoint, Extension, Gateway, Json, Limits, Parameters, Payload, Refusal, Registration, Routes,
};
use futures::StreamExt as _;
use ids::{CorrelationId, EndpointId};
use ism::esp::{CLIENT_DATA, EXTENSION_DATA};
use ism::{ClientData, DeliveryReport, ExtensionData, Record as _};
use runtime::{Context, Platform, Service, Settings, entry, now_ms};
use serde_json::{Value, json};
use testkit::eventually;

#[derive(Default)]
struct Echo;

impl Extension for Echo {
    const NAME: &'static str = "echo";

    fn routes(routes: Routes<Self>) -> Routes<Self> {
        routes
            .on("json", Echo::json)
            .on("plain/{metric}", Echo::plain)
            .on("panic", Echo::panic)
            .on("never", Echo::never)
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
        extension::serve(&context, Arc::new(Echo), Limits::default()).await.map(drop)
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
    assert_eq!(registration.resource_paths, ["/json", "/plain/{metric}", "/panic", "/never"]);
    assert!(registration.endpoint_aware);
    assert_eq!(registration.protocol, "esp");
    drop(running.nats);
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_go_to_the_replica_that_spoke_last_and_else_to_all() {
    let running = start().await;
    let context = running.platform.services()[0].clone();
    let gateway = Gateway::new(context);
    let endpoint = EndpointId::parse("endpoint-1").unwrap();
    let correlation = CorrelationId::parse("push-1").unwrap();
    let push = || {
        gateway.push(
            &endpoint,
            None,
            "/command/reboot",
            Bytes::from_static(b"[]"),
            &correlation,
            Duration::from_secs(5),
        )
    };
    assert_eq!(push().await, Delivery::Offline);

    let mut pushes = running.client.subscribe(EXTENSION_DATA.at("kpc")).await.unwrap();
    running.client.flush().await.unwrap();
    let client = running.client.clone();
    let holder = tokio::spawn(async move {
        let push = pushes.next().await.unwrap();
        let data = ExtensionData::decode(&push.payload).unwrap();
        let report = DeliveryReport {
            correlation_id: data.correlation_id.clone(),
            timestamp: now_ms(),
            timeout: 0,
            status_code: 200,
            reason_phrase: None,
        };
        client.publish(push.reply.unwrap(), report.encode()).await.unwrap();
        data
    });
    assert_eq!(push().await, Delivery::Delivered);
    let data = holder.await.unwrap();
    assert_eq!((data.resource_path.as_str(), data.request_id), ("/command/reboot", None));
    assert_eq!(data.endpoint_id.as_deref(), Some("endpoint-1"));
}
