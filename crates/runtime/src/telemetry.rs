//! Logs, metrics and traces of a process.
//!
//! Logs go to standard error, metrics to `/metrics`. When an OTLP endpoint is configured, logs, metrics and traces are
//! exported to it too (gRPC).

use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::Context as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::SdkLoggerProvider;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use serde::Deserialize;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer};

/// The configuration section.
pub const SECTION: &str = "telemetry";

/// Libraries that would drown our own lines; ntex logs an ERROR for each push to a client that has just gone.
const QUIET: &str = "ntex=warn,ntex_server=warn,ntex_rt=warn,ntex_mqtt=warn,ntex_mqtt::v5::sink=off,ntex_mqtt::v3::sink=off,async_nats=warn,sqlx=warn";

/// What is exported. Lines and spans of the exporter itself would beget each other; what libraries have to say in detail
/// was not written with our secrets in mind.
const EXPORTED: &str = "info,hyper=off,hyper_util=off,tonic=off,h2=off,tower=off,reqwest=off,opentelemetry=off,\
opentelemetry_sdk=off,opentelemetry_otlp=off,async_nats=warn,sqlx=warn,ntex=warn,ntex_mqtt=warn,rustls=warn";

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Section `[telemetry]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `info`, or per target as in `info,kpc=debug`.
    pub log_filter: String,
    /// `auto`, `text` or `json`.
    pub log_format: LogFormat,
    /// `http://host:4317` of an OTLP receiver (gRPC); nothing is exported when absent.
    pub otlp_endpoint: Option<String>,
    /// The share of messages without a trace of their own that start one, 0 to 1.
    pub trace_sample_ratio: f64,
    /// How often metrics are exported, in seconds.
    pub export_interval_seconds: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            log_filter: "info".to_owned(),
            log_format: LogFormat::Auto,
            otlp_endpoint: None,
            trace_sample_ratio: 0.01,
            export_interval_seconds: 15,
        }
    }
}

/// The process's telemetry; shut it down last.
pub struct Telemetry {
    registry: prometheus::Registry,
    metrics: SdkMeterProvider,
    traces: Option<SdkTracerProvider>,
    logs: Option<SdkLoggerProvider>,
}

/// Installs the process-wide log subscriber and metrics. Call it once, from `main`, inside a tokio runtime.
pub fn install(config: &Config) -> anyhow::Result<Telemetry> {
    let resource = Resource::builder().with_service_name("bandar").build();
    let registry = prometheus::Registry::new();
    let prometheus =
        opentelemetry_prometheus::exporter().with_registry(registry.clone()).without_target_info().build()?;
    let mut metrics = SdkMeterProvider::builder().with_resource(resource.clone()).with_reader(prometheus);
    let mut traces = None;
    let mut logs = None;
    if let Some(endpoint) = &config.otlp_endpoint {
        let exporter =
            opentelemetry_otlp::MetricExporter::builder().with_tonic().with_endpoint(endpoint).build()?;
        let reader = opentelemetry_sdk::metrics::PeriodicReader::builder(exporter)
            .with_interval(Duration::from_secs(config.export_interval_seconds.max(1)))
            .build();
        metrics = metrics.with_reader(reader);
        let exporter =
            opentelemetry_otlp::SpanExporter::builder().with_tonic().with_endpoint(endpoint).build()?;
        let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.trace_sample_ratio)));
        let provider = SdkTracerProvider::builder()
            .with_resource(resource.clone())
            .with_sampler(sampler)
            .with_batch_exporter(exporter);
        traces = Some(provider.build());
        let exporter =
            opentelemetry_otlp::LogExporter::builder().with_tonic().with_endpoint(endpoint).build()?;
        logs =
            Some(SdkLoggerProvider::builder().with_resource(resource).with_batch_exporter(exporter).build());
    }
    let metrics = metrics.build();
    opentelemetry::global::set_meter_provider(metrics.clone());
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
    subscribe(config, traces.as_ref(), logs.as_ref())?;
    Ok(Telemetry { registry, metrics, traces, logs })
}

fn subscribe(
    config: &Config,
    traces: Option<&SdkTracerProvider>,
    logs: Option<&SdkLoggerProvider>,
) -> anyhow::Result<()> {
    let filter: EnvFilter = format!("{QUIET},{}", config.log_filter)
        .parse()
        .context("telemetry.log_filter must be like `info` or `info,kpc=debug`")?;
    let json = match config.log_format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !std::io::stderr().is_terminal(),
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = if json {
        lines.json().flatten_event(true).with_span_list(false).boxed()
    } else {
        lines.with_ansi(std::io::stderr().is_terminal()).boxed()
    };
    let spans = traces.map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("bandar"))
            .with_filter(EnvFilter::new(EXPORTED))
    });
    let exported =
        logs.map(|provider| OpenTelemetryTracingBridge::new(provider).with_filter(EnvFilter::new(EXPORTED)));
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .with(spans)
        .with(exported)
        .try_init()
        .context("a log subscriber is already installed")
}

impl Telemetry {
    /// What `/metrics` shows.
    #[must_use]
    pub fn registry(&self) -> prometheus::Registry {
        self.registry.clone()
    }

    /// Exports what is left. Failures are only logged: the receiver may be gone.
    pub fn shutdown(self) {
        let ends = [
            self.traces.map(|traces| traces.shutdown()),
            self.logs.map(|logs| logs.shutdown()),
            Some(self.metrics.shutdown()),
        ];
        for error in ends.into_iter().flatten().filter_map(Result::err) {
            tracing::debug!(%error, "telemetry was not exported to the end");
        }
    }
}
