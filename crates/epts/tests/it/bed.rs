//! What every test works with.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use epts::Epts;
use futures::StreamExt as _;
use ism::Record as _;
use ism::config::{CONFIGURATION_REQUEST, ConfigurationRequest, ConfigurationResponse};
use ism::dstp::{DATA_SAMPLES_RECEIVED, DataSamplesEvent, DataSamplesProcessed};
use ism::endpoints::{EndpointGetRequest, EndpointGetResponse, GET_REQUEST};
use runtime::{Platform, Settings, entry, now_ms};
use serde_json::{Value, json};
use sqlx::PgPool;
use testbed::Responder;
use testkit::{Database, Nats};
use tokio::task::JoinHandle;

const KEY: &str = "a-key-for-tests-0123456789abcdef";
/// The key of the tenant `other`, of which the service knows only the digest.
pub(crate) const OTHER_KEY: &str = "other-key-for-tests-0123456789";
const OTHER_KEYS: &str = r#"[{tenant="other", api_key_sha256="4f45a784a8396d066d61d179def2a466b554ee7e57ef81caa0169f2bc346698a"}]"#;
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The applications that exist, each with one version `<name>-v1`, and their settings for epts.
pub(crate) type Register = BTreeMap<&'static str, Value>;

/// A NATS, a database and applications; services are started on it.
pub(crate) struct Bed {
    pub(crate) nats: Nats,
    pub(crate) database: Database,
    pub(crate) client: async_nats::Client,
    /// Answers for `tekton` until it is aborted.
    pub(crate) tekton: JoinHandle<()>,
    /// Answers for `epr`, until it is taken: each endpoint belongs to the application `app` of the tenant `acme`.
    pub(crate) epr: Option<Responder>,
    register: Register,
    next: AtomicU64,
}

impl Bed {
    pub(crate) async fn new(register: Register) -> Self {
        let (nats, database) = tokio::join!(testkit::nats(), testkit::database());
        Self::on(nats, database, register).await
    }

    pub(crate) async fn on(nats: Nats, database: Database, register: Register) -> Self {
        let client = nats.client().await;
        let tekton = serve(client.clone(), register.clone()).await;
        let epr = Some(endpoints(&client).await);
        Self { nats, database, client, tekton, epr, register, next: AtomicU64::new(1) }
    }

    /// Starts a replica of the service.
    pub(crate) async fn start(&self, extra: &[(&str, &str)]) -> Replica {
        let mut layers = vec![
            ("nats.url", self.nats.url.as_str()),
            ("postgres.url", self.database.url.as_str()),
            ("postgres.acquire_timeout_ms", "1000"),
            ("http.listen", "127.0.0.1:0"),
            ("http.auth.api_key", KEY),
            ("http.auth.tenant", "acme"),
            ("http.auth.tenant_manager", "false"),
            ("http.auth.keys", OTHER_KEYS),
        ];
        layers.extend_from_slice(extra);
        let layers = layers.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let settings = Settings::from_layers(None, Vec::new(), layers);
        let mut platform = Platform::start(&settings, &[entry::<Epts>()], &["epts"], None).await.unwrap();
        tokio::time::timeout(PATIENCE, platform.ready()).await.unwrap().unwrap();
        Replica { platform, http: reqwest::Client::new() }
    }

    /// The same, but the application is gone from its register.
    pub(crate) async fn without_application(self, name: &str) -> Self {
        let mut left = self.register.clone();
        left.remove(name);
        self.tekton.abort();
        let tekton = serve(self.client.clone(), left.clone()).await;
        Self { tekton, register: left, ..self }
    }

    /// A connection to the database that sees the tables of the service.
    pub(crate) async fn sql(&self) -> PgPool {
        let options: sqlx::postgres::PgConnectOptions = self.database.url.parse().unwrap();
        PgPool::connect_with(options.options([("search_path", "epts")])).await.unwrap()
    }

    /// A message for the first version of an application.
    pub(crate) fn event(&self, application: &str, endpoint: &str, samples: &[Value]) -> DataSamplesEvent {
        let samples: Vec<String> = samples.iter().map(Value::to_string).collect();
        self.raw_event(application, endpoint, &samples)
    }

    pub(crate) fn raw_event(
        &self,
        application: &str,
        endpoint: &str,
        samples: &[String],
    ) -> DataSamplesEvent {
        DataSamplesEvent {
            correlation_id: format!("test-{}", self.next.fetch_add(1, Ordering::Relaxed)),
            timestamp: now_ms(),
            timeout: 10_000,
            app_version_name: format!("{application}-v1"),
            endpoint_id: endpoint.to_owned(),
            content_type: "application/json".to_owned(),
            data_samples: samples.iter().map(|sample| Bytes::copy_from_slice(sample.as_bytes())).collect(),
        }
    }

    /// Sends a message and waits for the receipt: status and reason.
    pub(crate) async fn send(&self, event: DataSamplesEvent) -> (i32, String) {
        send(&self.client, event).await.unwrap()
    }

    /// Sends samples of one endpoint; they must be stored.
    pub(crate) async fn store(&self, application: &str, endpoint: &str, samples: &[Value]) {
        let receipt = self.send(self.event(application, endpoint, samples)).await;
        assert_eq!(receipt, (200, String::new()));
    }

    /// Sends samples that must be refused; the status and the reason.
    pub(crate) async fn refused(&self, application: &str, sample: Value) -> (i32, String) {
        self.send(self.event(application, "e", &[sample])).await
    }
}

/// Sends a message and waits for the receipt; none when it does not come.
pub(crate) async fn send(client: &async_nats::Client, event: DataSamplesEvent) -> Option<(i32, String)> {
    let subject = DATA_SAMPLES_RECEIVED.of(&ids::InstanceName::parse("dcx").unwrap());
    let answer = tokio::time::timeout(Duration::from_secs(20), client.request(subject, event.encode())).await;
    let processed = DataSamplesProcessed::decode(&answer.ok()?.ok()?.payload).unwrap();
    assert_eq!(processed.correlation_id, event.correlation_id);
    assert_eq!(processed.receiver_service_instance_name, "epts");
    Some((processed.status_code, processed.reason_phrase.unwrap_or_default()))
}

/// Answers for `tekton`. All applications belong to the tenant `acme`.
pub(crate) async fn serve(client: async_nats::Client, register: Register) -> JoinHandle<()> {
    let mut requests = client.subscribe(CONFIGURATION_REQUEST.at("tekton")).await.unwrap();
    client.flush().await.unwrap();
    let register = Arc::new(register);
    tokio::spawn(async move {
        while let Some(message) = requests.next().await {
            let request = ConfigurationRequest::decode(&message.payload).unwrap();
            let version = request.app_version_name.as_deref().and_then(|name| name.strip_suffix("-v1"));
            let name = version.or(request.app_name.as_deref());
            let found = name.and_then(|name| register.get_key_value(name));
            let response = ConfigurationResponse {
                correlation_id: request.correlation_id,
                timestamp: now_ms(),
                timeout: 0,
                tenant_id: found.map(|_| "acme".to_owned()),
                app_name: found.map(|(name, _)| (*name).to_owned()),
                app_version_names: found.map(|(name, _)| format!("{name}-v1")).into_iter().collect(),
                config: found.map(|(_, settings)| json!({ "time-series": settings }).to_string().into()),
                status_code: if found.is_some() { 200 } else { 404 },
                reason_phrase: None,
            };
            client.publish(message.reply.unwrap(), response.encode()).await.unwrap();
        }
    })
}

/// Answers for `epr`. Endpoints that begin with `no-` do not exist, those with `other-` belong to the application `other`.
async fn endpoints(client: &async_nats::Client) -> Responder {
    Responder::start(client, GET_REQUEST.at("epr"), |request: EndpointGetRequest| {
        let exists = request.tenant_id == "acme" && !request.endpoint_id.starts_with("no-");
        let app_name = if request.endpoint_id.starts_with("other-") { "other" } else { "app" };
        Some(EndpointGetResponse {
            correlation_id: request.correlation_id,
            timestamp: now_ms(),
            timeout: 0,
            app_name: exists.then(|| app_name.to_owned()),
            app_version_name: exists.then(|| format!("{app_name}-v1")),
            status_code: if exists { 200 } else { 404 },
            reason_phrase: None,
        })
    })
    .await
}

/// A running replica.
pub(crate) struct Replica {
    pub(crate) platform: Platform,
    http: reqwest::Client,
}

impl Replica {
    fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        let url = format!("http://{}/epts/api/v1/{path}", self.platform.http_address());
        self.http.request(method, url).header("x-iamcore-api-key", KEY)
    }

    /// GET below `/epts/api/v1/`: status and body.
    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        answer(self.request(reqwest::Method::GET, path)).await
    }

    /// The same for the tenant `other`.
    pub(crate) async fn get_as_other(&self, path: &str) -> (u16, Value) {
        let url = format!("http://{}/epts/api/v1/{path}", self.platform.http_address());
        answer(self.http.get(url).header("x-iamcore-api-key", OTHER_KEY)).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        answer(self.request(reqwest::Method::POST, path).json(body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> (u16, Value) {
        answer(self.request(reqwest::Method::PUT, path).json(body)).await
    }

    /// GET that must be answered with 200.
    pub(crate) async fn read(&self, path: &str) -> Value {
        let (status, body) = self.get(path).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// The points of one series of one endpoint as (timestamp, values), from 1970 on.
    pub(crate) async fn points(
        &self,
        application: &str,
        endpoint: &str,
        series: &str,
    ) -> Vec<(String, Value)> {
        let path = format!(
            "applications/{application}/time-series/data?timeSeriesName={series}&endpointId={endpoint}&fromDate=1970-01-01&toDate=now%2B1d"
        );
        let body = self.read(&path).await;
        let points = body[0][endpoint][series].as_array().cloned().unwrap_or_default();
        points
            .into_iter()
            .map(|point| (point["timestamp"].as_str().unwrap().to_owned(), point["values"].clone()))
            .collect()
    }

    pub(crate) async fn books(&self, application: &str) -> Value {
        self.read(&format!("applications/{application}/books")).await
    }
}

async fn answer(request: reqwest::RequestBuilder) -> (u16, Value) {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}
