//! dcx on a real NATS, between a gateway and a receiver that the test plays.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use dcx::Dcx;
use ism::config::CONFIGURATION_REQUEST;
use ism::dstp::DATA_SAMPLES_RECEIVED;
use ism::esp::CLIENT_DATA;
use ism::{
    ClientData, ConfigurationRequest, ConfigurationResponse, DataSamplesEvent, DataSamplesProcessed,
    ExtensionData, Record as _,
};
use runtime::{Platform, Settings, entry, now_ms};
use serde_json::{Value, json};
use testbed::Responder;
use tokio::sync::mpsc;

/// The application register, as far as dcx asks it: one version, `demo-v1`.
async fn tekton(client: &async_nats::Client, block: Value) -> Responder {
    let answer = move |request: ConfigurationRequest| {
        let known = request.app_version_name.as_deref() == Some("demo-v1");
        Some(ConfigurationResponse {
            correlation_id: request.correlation_id,
            timestamp: now_ms(),
            timeout: 0,
            tenant_id: known.then(|| "acme".to_owned()),
            app_name: known.then(|| "demo".to_owned()),
            app_version_names: vec![],
            config: known.then(|| Bytes::from(block.to_string())),
            status_code: if known { 200 } else { 404 },
            reason_phrase: None,
        })
    };
    Responder::start(client, CONFIGURATION_REQUEST.at("tekton"), answer).await
}

struct Running {
    _nats: testkit::Nats,
    client: async_nats::Client,
    _tekton: Responder,
    _platform: Platform,
}

async fn start(block: Value) -> Running {
    let nats = testkit::nats().await;
    let client = nats.client().await;
    let tekton = tekton(&client, block).await;
    let layers = [
        ("nats.url", nats.url.as_str()),
        ("http.listen", "127.0.0.1:0"),
        ("http.auth.api_key", "a-key-for-tests-0123456789abcdef"),
        ("http.auth.tenant", "acme"),
        ("http.auth.tenant_manager", "false"),
    ];
    let layers = layers.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
    let settings = Settings::from_layers(None, Vec::new(), layers);
    let mut platform = Platform::start(&settings, &[entry::<Dcx>()], &["dcx"], None).await.unwrap();
    platform.ready().await.unwrap();
    Running { _nats: nats, client, _tekton: tekton, _platform: platform }
}

impl Running {
    /// Sends as the gateway does.
    async fn send(&self, version: &str, path: &str, payload: &[u8], timeout: i64) -> (i32, String) {
        let data = ClientData {
            correlation_id: "correlation-1".to_owned(),
            timestamp: now_ms(),
            timeout,
            app_version_name: version.to_owned(),
            endpoint_id: Some("endpoint-1".to_owned()),
            resource_path: path.to_owned(),
            request_id: None,
            payload: Bytes::copy_from_slice(payload),
            config_name: None,
        };
        let answer = self.client.request(CLIENT_DATA.at("dcx"), data.encode()).await.unwrap();
        let answer = ExtensionData::decode(&answer.payload).unwrap();
        assert!(answer.payload.is_none(), "a positive answer has no payload");
        (answer.status_code, answer.reason_phrase.unwrap_or_default())
    }

    /// A receiver that answers with a status, and hands on what it got.
    async fn receiver(
        &self,
        name: &'static str,
        status_code: i32,
    ) -> (Responder, mpsc::Receiver<DataSamplesEvent>) {
        let (sender, received) = mpsc::channel(16);
        let answer = move |event: DataSamplesEvent| {
            let correlation_id = event.correlation_id.clone();
            sender.try_send(event).unwrap();
            Some(DataSamplesProcessed {
                correlation_id,
                timestamp: now_ms(),
                timeout: 0,
                receiver_service_instance_name: name.to_owned(),
                status_code,
                reason_phrase: (status_code != 200).then(|| "sample 0: no".to_owned()),
            })
        };
        (Responder::start(&self.client, DATA_SAMPLES_RECEIVED.of_any(), answer).await, received)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn samples_reach_the_receiver_as_they_were_sent() {
    let running = start(json!({})).await;
    let (_epts, mut received) = running.receiver("epts", 200).await;
    for (path, payload, samples) in [
        ("/json", "{\"temperature\": 21}", vec!["{\"temperature\": 21}"]),
        ("/json", "15", vec!["15"]),
        ("/json", " [{\"a\":1}, 15, [1]] ", vec!["{\"a\":1}", "15", "[1]"]),
        ("/plain/temperature", "200", vec!["{\"temperature-unit\":\"number\",\"temperature-value\":200}"]),
    ] {
        assert_eq!(
            running.send("demo-v1", path, payload.as_bytes(), 10_000).await,
            (200, String::new()),
            "{payload}"
        );
        let event = received.recv().await.unwrap();
        assert_eq!(event.data_samples, samples);
        assert_eq!(
            (event.endpoint_id.as_str(), event.content_type.as_str()),
            ("endpoint-1", "application/json")
        );
        assert_eq!(event.correlation_id, "correlation-1");
        assert!(event.timeout > 0 && event.timeout <= 10_000);
    }
    assert_eq!(running.send("demo-v1", "/json", b"[]", 10_000).await.0, 200);
    assert!(received.try_recv().is_err(), "nothing to store, nothing sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_no_receipt_without_every_reliable_receiver() {
    let running = start(json!({ "reliable-receivers": ["epts", "archive"] })).await;
    let (status, reason) = running.send("demo-v1", "/json", b"1", 10_000).await;
    assert_eq!(status, 503, "{reason}");
    let _epts = running.receiver("epts", 200).await;
    let (status, reason) = running.send("demo-v1", "/json", b"1", 300).await;
    assert_eq!(status, 504);
    assert!(reason.contains("archive") && !reason.contains("epts,"), "{reason}");
    let _archive = running.receiver("archive", 200).await;
    assert_eq!(running.send("demo-v1", "/json", b"1", 10_000).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_stored_nowhere_may_be_repeated() {
    let running = start(json!({})).await;
    let _epts = running.receiver("epts", 503).await;
    assert_eq!(running.send("demo-v1", "/json", b"1", 10_000).await.0, 503);

    let running = start(json!({ "reliable-receivers": ["epts", "archive"] })).await;
    let _epts = running.receiver("epts", 503).await;
    let _archive = running.receiver("archive", 200).await;
    assert_eq!(running.send("demo-v1", "/json", b"1", 10_000).await.0, 504);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_named_twice_answers_once() {
    let running = start(json!({ "reliable-receivers": ["epts", "epts"] })).await;
    let _epts = running.receiver("epts", 200).await;
    assert_eq!(running.send("demo-v1", "/json", b"1", 10_000).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_not_awaited_cannot_give_the_receipt() {
    let running = start(json!({})).await;
    let _analytics = running.receiver("analytics", 200).await;
    assert_eq!(running.send("demo-v1", "/json", b"1", 300).await.0, 504);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_reaches_the_device() {
    let running = start(json!({})).await;
    let _epts = running.receiver("epts", 400).await;
    assert_eq!(running.send("demo-v1", "/json", b"1", 10_000).await, (400, "sample 0: no".to_owned()));
    assert_eq!(running.send("demo-v9", "/json", b"1", 10_000).await.0, 404);
    assert_eq!(running.send("demo-v1", "/json", b"{", 10_000).await.0, 400);
    assert_eq!(running.send("demo-v1", "/plain/temperature", b"warm", 10_000).await.0, 400);
    assert_eq!(running.send("demo-v1", "/xml", b"1", 10_000).await.0, 404);
    assert_eq!(running.send("demo-v1", "/json/random", b"1", 10_000).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_can_relax_the_path() {
    let running = start(json!({ "relaxed-resource-path-validation": { "enabled": true } })).await;
    let _epts = running.receiver("epts", 200).await;
    assert_eq!(running.send("demo-v1", "/json/random_string", b"1", 10_000).await.0, 200);
}
