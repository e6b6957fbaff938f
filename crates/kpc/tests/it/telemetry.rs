//! What the operator sees: traces go on, log lines have correlation ids, messages are counted by application.

use std::io::Write;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use futures::StreamExt as _;
use ism::esp::CLIENT_DATA;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData};
use opentelemetry_sdk::metrics::{InMemoryMetricExporter, PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use testkit::eventually;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::client::{Client, Packet, user_property};
use crate::http::post;
use crate::world::{Gate, World};

/// The telemetry of all gateways that this test process starts from now on.
static TELEMETRY: LazyLock<Telemetry> = LazyLock::new(Telemetry::install);

struct Telemetry {
    log: Lines,
    meters: SdkMeterProvider,
    metrics: InMemoryMetricExporter,
}

/// Log lines in memory.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    /// The lines that hold the words.
    fn with(&self, words: &str) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned();
        text.lines().filter(|line| line.contains(words)).map(str::to_owned).collect()
    }
}

impl Telemetry {
    /// Log lines at the default level, and traces only of messages that come with one that is sampled.
    fn install() -> Self {
        let metrics = InMemoryMetricExporter::default();
        let reader =
            PeriodicReader::builder(metrics.clone()).with_interval(Duration::from_secs(3_600)).build();
        let meters = SdkMeterProvider::builder().with_reader(reader).build();
        opentelemetry::global::set_meter_provider(meters.clone());
        let sampler = Sampler::ParentBased(Box::new(Sampler::AlwaysOff));
        let tracer = SdkTracerProvider::builder().with_sampler(sampler).build().tracer("test");
        let log = Lines::default();
        let writer = log.clone();
        let lines = tracing_subscriber::fmt::layer()
            .json()
            .with_writer(move || writer.clone())
            .with_filter(EnvFilter::new(runtime::telemetry::Config::default().log_filter));
        tracing_subscriber::registry()
            .with(lines)
            .with(tracing_opentelemetry::layer().with_tracer(tracer))
            .try_init()
            .unwrap();
        Self { log, meters, metrics }
    }

    /// How many messages have been counted under these labels.
    fn messages(&self, wanted: &[(&str, &str)]) -> u64 {
        let label = |point: &[String], (key, value): &(&str, &str)| point.contains(&format!("{key}={value}"));
        let points = self.counts("bandar_kpc_messages");
        points.iter().filter(|(labels, _)| wanted.iter().all(|one| label(labels, one))).map(|(_, n)| n).sum()
    }

    /// The newest state of a counter: labels and count.
    fn counts(&self, name: &str) -> Vec<(Vec<String>, u64)> {
        self.metrics.reset();
        self.meters.force_flush().unwrap();
        let resources = self.metrics.get_finished_metrics().unwrap();
        let scopes = resources.iter().flat_map(|resource| resource.scope_metrics());
        let metrics = scopes.flat_map(|scope| scope.metrics());
        let mut counts = Vec::new();
        for metric in metrics.filter(|metric| metric.name() == name) {
            let AggregatedMetrics::U64(MetricData::Sum(sum)) = metric.data() else { panic!("{metric:?}") };
            counts.extend(sum.data_points().map(|point| {
                let labels = point.attributes().map(|label| format!("{}={}", label.key, label.value));
                (labels.collect(), point.value())
            }));
        }
        counts
    }
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

fn traceparent(is_sampled: bool) -> String {
    format!("00-{TRACE}-b7ad6b7169203331-0{}", u8::from(is_sampled))
}

async fn post_traced(gate: &Gate, is_sampled: bool) {
    let url = format!("http://{}/kp1/demo-v1/echo/t1/json", gate.platform.http_address());
    let request = reqwest::Client::new().post(url).header("traceparent", traceparent(is_sampled)).body("x");
    assert_eq!(request.send().await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sampled_trace_goes_on_to_the_extension() {
    LazyLock::force(&TELEMETRY);
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    let mut messages = world.listen(CLIENT_DATA.at("echo")).await;
    let mut trace = async || {
        let headers = messages.next().await.unwrap().headers?;
        Some(headers.get("traceparent")?.as_str().to_owned())
    };
    let goes_on = |sent: Option<String>| {
        let sent = sent.expect("no traceparent was sent on");
        // Its own span, in the trace that the device began.
        assert!(sent.starts_with(&format!("00-{TRACE}-")) && sent.ends_with("-01"), "{sent}");
        assert_ne!(sent, traceparent(true));
    };
    let mut client = Client::connect(gate.mqtt, 5, "c").await;
    for is_sampled in [true, false] {
        let properties = [user_property("traceparent", &traceparent(is_sampled))];
        let id = client.publish_with("kp1/demo-v1/echo/t1/json", "x", 1, &properties).await;
        assert_eq!(client.acknowledged(id).await, 0);
        let over_mqtt = trace().await;
        post_traced(&gate, is_sampled).await;
        let over_http = trace().await;
        if is_sampled {
            goes_on(over_mqtt);
            goes_on(over_http);
        } else {
            assert_eq!((over_mqtt, over_http), (None, None));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_line_about_a_message_has_its_correlation_id_at_the_default_level() {
    let log = &TELEMETRY.log;
    let world = World::new().await;
    let gate = world.gate(&[("kpc.deadline_ms", "500")]).await;
    let mut client = Client::connect(gate.mqtt, 4, "c").await;
    client.publish("kp1/demo-v1/echo/t1/garbled", "over MQTT", 0).await;
    assert_eq!(post(&gate, "/kp1/demo-v1/echo/t1/garbled", "over HTTP").await.status(), 500);
    for payload in ["over MQTT", "over HTTP"] {
        let correlation_id = world.extension.has(payload).await.correlation_id;
        let words = format!(r#""correlation_id":"{correlation_id}""#);
        let found = || log.with("an extension's answer cannot be read").join("\n");
        eventually("the log line is written", Duration::from_secs(10), async || {
            found().contains(&words).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_counted_by_application_and_never_under_a_name_that_nobody_has_checked() {
    let telemetry = &*TELEMETRY;
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    let mut client = Client::connect(gate.mqtt, 5, "c").await;
    let id = client.publish("kp1/counted-v1/echo/t1/json", "x", 1).await;
    assert_eq!(client.acknowledged(id).await, 0);
    for (path, status) in [
        ("/kp1/counted-v1/echo/t1/json", 200),
        ("/kp1/counted-v1/echo/t1/json", 200),
        ("/kp1/counted-v1/echo/wrong/json", 401),
        ("/kp1/counted-v1/invented/t1/json", 404),
        ("/kp1/invented-v1/echo/t1/json", 404),
        ("/kp1/Invented/echo/t1/json", 404),
    ] {
        assert_eq!(post(&gate, path, "x").await.status(), status, "{path}");
    }
    let counted = |transport, outcome, status| {
        let application = ("application", "counted");
        telemetry.messages(&[application, ("transport", transport), ("outcome", outcome), ("status", status)])
    };
    assert_eq!(counted("mqtt", "stored", "200"), 1);
    assert_eq!(counted("http", "stored", "200"), 2);
    assert_eq!(counted("http", "refused", "401"), 1);
    assert_eq!(counted("http", "refused", "404"), 1);
    let unknown = telemetry.messages(&[("application", ""), ("transport", "http"), ("status", "404")]);
    assert!(unknown >= 2, "{:?}", telemetry.counts("bandar_kpc_messages"));
    let labels = format!("{:?}", telemetry.counts("bandar_kpc_messages"));
    assert!(!labels.to_lowercase().contains("invented"), "{labels}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_too_large_for_its_client_is_counted_and_fills_no_log() {
    let telemetry = &*TELEMETRY;
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    let mut client = Client::open(gate.mqtt, 5).await;
    // CONNECT with a Maximum Packet Size of 100 bytes.
    client.send(b"\x10\x13\x00\x04MQTT\x05\x02\x00\x3C\x05\x27\x00\x00\x00\x64\x00\x01c").await;
    assert!(matches!(client.next().await, Packet::ConnAck { code: 0, .. }));
    let before: u64 =
        telemetry.counts("bandar_kpc_too_large_for_client").iter().map(|(_, count)| count).sum();
    for qos in [0, 1] {
        client.publish("kp1/demo-v1/echo/t1/json/1", "x".repeat(200), qos).await;
        client.publish("kp1/demo-v1/echo/t1/json/2", "x", qos).await;
        assert_eq!(client.message("kp1/demo-v1/echo/t1/json/2/status").await, "x");
    }
    eventually("both are counted", Duration::from_secs(10), async || {
        let counts = telemetry.counts("bandar_kpc_too_large_for_client");
        (counts.iter().map(|(_, count)| count).sum::<u64>() == before + 2).then_some(())
    })
    .await;
    assert!(telemetry.log.with("too large for its client").is_empty());
}
