//! What every test works with.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use epl::Epl;
use ids::InstanceName;
use ism::config::CONFIGURATION_REQUEST;
use ism::elce::{CONNECTED, DISCONNECTED};
use ism::epmmp::EP_METADATA_KEY_BATCH_UPDATE_REQUEST;
use ism::session::REPLICA_ALIVE;
use ism::tstp::{DATA_POINTS_RECEIVED, Value as PointValue};
use ism::{
    ConfigurationRequest, ConfigurationResponse, ConnectedEvent, DisconnectedEvent,
    EndpointMetadataKeyBatchUpdateRequest, EndpointMetadataKeyBatchUpdateResponse, Record as _,
    ReplicaAliveEvent, TimeSeriesEvent, TimeSeriesProcessed,
};
use parking_lot::Mutex;
use runtime::{Platform, Settings, entry, now_ms};
use serde_json::{Value, json};
use testbed::{PATIENCE, Responder};
use testkit::{Database, Nats, eventually};

const KEY: &str = "a-key-for-tests-0123456789abcdef";

/// What the services that the test plays were told.
#[derive(Default)]
pub(crate) struct World {
    /// Endpoint to metadata key to value, as last written.
    pub(crate) metadata: BTreeMap<String, BTreeMap<String, Value>>,
    /// Every state that was written, by endpoint.
    pub(crate) states: BTreeMap<String, Vec<bool>>,
    /// Requests for metadata.
    pub(crate) requests: usize,
    /// (time, value) of the points, by endpoint.
    pub(crate) points: BTreeMap<String, BTreeMap<i64, i64>>,
    /// What the receiver of points answers, next first; then 200.
    pub(crate) receiver_answers: Vec<i32>,
}

pub(crate) type Shared = Arc<Mutex<World>>;

/// NATS, a database and the other services.
pub(crate) struct Bed {
    pub(crate) nats: Nats,
    pub(crate) client: async_nats::Client,
    pub(crate) database: Database,
    pub(crate) world: Shared,
    _tekton: Responder,
}

impl Bed {
    pub(crate) async fn new() -> Self {
        let (nats, database) = tokio::join!(testkit::nats(), testkit::database());
        let client = nats.client().await;
        let tekton = tekton(&client).await;
        Self { nats, client, database, world: Shared::default(), _tekton: tekton }
    }

    /// Starts a replica of the service.
    pub(crate) async fn start(&self, extra: &[(&str, &str)]) -> Platform {
        let mut layers = vec![
            ("nats.url", self.nats.url.as_str()),
            ("postgres.url", self.database.url.as_str()),
            ("http.listen", "127.0.0.1:0"),
            ("http.auth.api_key", KEY),
            ("http.auth.tenant", "acme"),
            ("http.auth.tenant_manager", "false"),
            ("epl.retry_pause_max_ms", "100"),
            ("epl.request_timeout_ms", "2000"),
            // Where a test says nothing of it, no gateway replica is dead.
            ("epl.gateway_interval_ms", "600000"),
        ];
        layers.extend_from_slice(extra);
        let layers = layers.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let settings = Settings::from_layers(None, Vec::new(), layers);
        let mut platform = Platform::start(&settings, &[entry::<Epl>()], &["epl"], None).await.unwrap();
        tokio::time::timeout(PATIENCE, platform.ready()).await.unwrap().unwrap();
        platform
    }

    pub(crate) async fn epr(&self) -> Responder {
        epr(&self.client, &self.world).await
    }

    pub(crate) async fn receiver(&self) -> Responder {
        receiver(&self.client, &self.world).await
    }

    pub(crate) async fn connected(&self, replica: &str, at_ms: i64, endpoints: &[&str]) {
        connected(&self.client, replica, at_ms, endpoints).await;
    }

    pub(crate) async fn disconnected(&self, replica: &str, at_ms: i64, endpoints: &[&str]) {
        let endpoints = endpoints.iter().map(|id| ((*id).to_owned(), "demo-v1".to_owned())).collect();
        let event = DisconnectedEvent {
            correlation_id: "c".to_owned(),
            timestamp: at_ms,
            timeout: 0,
            endpoints,
            originator_replica_id: replica.to_owned(),
        };
        self.client.publish(DISCONNECTED.of(&kpc()), event.encode()).await.unwrap();
    }

    pub(crate) async fn alive(&self, replica: &str, at_ms: i64, interval_ms: i64) {
        let event = ReplicaAliveEvent {
            correlation_id: "c".to_owned(),
            timestamp: at_ms,
            timeout: 0,
            originator_replica_id: replica.to_owned(),
            interval_ms,
        };
        self.client.publish(REPLICA_ALIVE.of(&kpc()), event.encode()).await.unwrap();
    }

    /// Waits until the metadata say this.
    pub(crate) async fn shows(&self, endpoint: &str, is_connected: bool, at_ms: i64) {
        shows(&self.world, endpoint, is_connected, at_ms).await;
    }

    /// Waits until the points of an endpoint are these.
    pub(crate) async fn has_points(&self, endpoint: &str, points: &[(i64, i64)]) {
        has_points(&self.world, endpoint, points).await;
    }

    /// What REST says: status and body.
    pub(crate) async fn connectivity(&self, platform: &Platform, endpoint: &str) -> (u16, Value) {
        let url = format!("http://{}/epl/api/v1/endpoints/{endpoint}/connectivity", platform.http_address());
        let response = reqwest::Client::new().get(url).header("x-iamcore-api-key", KEY).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }
}

/// Whoever has taken something to tell and is cut off from the database keeps it for a minute: longer than that.
const TOLD_WITHIN: Duration = Duration::from_secs(90);

pub(crate) async fn shows(world: &Shared, endpoint: &str, is_connected: bool, at_ms: i64) {
    let expected = BTreeMap::from([
        ("connected".to_owned(), json!(is_connected)),
        ("stateUpdateTs".to_owned(), json!(iso8601(at_ms))),
    ]);
    eventually(&format!("{endpoint} has {expected:?}"), TOLD_WITHIN, async || {
        (world.lock().metadata.get(endpoint) == Some(&expected)).then_some(())
    })
    .await;
}

pub(crate) async fn has_points(world: &Shared, endpoint: &str, points: &[(i64, i64)]) {
    let points: BTreeMap<i64, i64> = points.iter().copied().collect();
    eventually(&format!("{endpoint} has the points {points:?}"), TOLD_WITHIN, async || {
        (world.lock().points.get(endpoint) == Some(&points)).then_some(())
    })
    .await;
}

pub(crate) fn iso8601(ms: i64) -> String {
    chrono::DateTime::from_timestamp_millis(ms).unwrap().to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}

pub(crate) fn kpc() -> InstanceName {
    InstanceName::parse("kpc").unwrap()
}

pub(crate) async fn connected(client: &async_nats::Client, replica: &str, at_ms: i64, endpoints: &[&str]) {
    client.publish(CONNECTED.of(&kpc()), connected_event(replica, at_ms, endpoints)).await.unwrap();
}

pub(crate) fn connected_event(replica: &str, at_ms: i64, endpoints: &[&str]) -> Bytes {
    let endpoints = endpoints.iter().map(|id| ((*id).to_owned(), version_of(id).to_owned())).collect();
    ConnectedEvent {
        correlation_id: "c".to_owned(),
        timestamp: at_ms,
        timeout: 0,
        endpoints,
        originator_replica_id: replica.to_owned(),
    }
    .encode()
}

/// Endpoints that begin with `plain` are of a version for which nothing is configured.
fn version_of(endpoint: &str) -> &'static str {
    if endpoint.starts_with("plain") { "plain-v1" } else { "demo-v1" }
}

/// The application register: `demo-v1` with everything configured, `plain-v1` with nothing; both of `acme`.
pub(crate) async fn tekton(client: &async_nats::Client) -> Responder {
    let answer = |request: ConfigurationRequest| {
        let name = request.app_version_name.unwrap_or_default();
        let config = match name.as_str() {
            "demo-v1" => Some(json!({"connectivity": {
                "metadata-keys": {"state": "connected", "state-ts": "stateUpdateTs"},
                "time-series": {"name": "connectivity"},
            }})),
            _ => None,
        };
        let app = name.strip_suffix("-v1").filter(|app| ["demo", "plain"].contains(app));
        Some(ConfigurationResponse {
            correlation_id: request.correlation_id,
            timestamp: now_ms(),
            timeout: 0,
            tenant_id: app.map(|_| "acme".to_owned()),
            app_name: app.map(ToOwned::to_owned),
            app_version_names: vec![],
            config: config.map(|config| Bytes::from(config.to_string())),
            status_code: if app.is_some() { 200 } else { 404 },
            reason_phrase: None,
        })
    };
    Responder::start(client, CONFIGURATION_REQUEST.at("tekton"), answer).await
}

/// The endpoint register. It does not know endpoints that begin with `gone`, and takes no metadata of those with `bad`, and
/// fails on those with `broken`.
pub(crate) async fn epr(client: &async_nats::Client, world: &Shared) -> Responder {
    let world = world.clone();
    let answer = move |request: EndpointMetadataKeyBatchUpdateRequest| {
        let mut world = world.lock();
        world.requests += 1;
        let any =
            |prefix: &str| request.commands.iter().any(|command| command.endpoint_id.starts_with(prefix));
        let status_code = if any("gone") {
            404
        } else if any("bad") {
            400
        } else if any("broken") {
            503
        } else {
            200
        };
        if status_code == 200 {
            for command in request.commands {
                let value: Value = serde_json::from_slice(&command.metadata_value).unwrap();
                if let Some(state) = value.as_bool() {
                    world.states.entry(command.endpoint_id.clone()).or_default().push(state);
                }
                world.metadata.entry(command.endpoint_id).or_default().insert(command.metadata_key, value);
            }
        }
        Some(EndpointMetadataKeyBatchUpdateResponse {
            correlation_id: request.correlation_id,
            timestamp: now_ms(),
            timeout: 0,
            status_code,
            reason_phrase: (status_code != 200).then(|| "refused".to_owned()),
        })
    };
    Responder::start(client, EP_METADATA_KEY_BATCH_UPDATE_REQUEST.at("epr"), answer).await
}

/// A receiver of time series.
pub(crate) async fn receiver(client: &async_nats::Client, world: &Shared) -> Responder {
    let world = world.clone();
    let answer = move |event: TimeSeriesEvent| {
        assert_eq!(
            (event.time_series_name.as_str(), event.app_version_name.as_str()),
            ("connectivity", "demo-v1")
        );
        let mut world = world.lock();
        let status_code =
            if world.receiver_answers.is_empty() { 200 } else { world.receiver_answers.remove(0) };
        if status_code == 200 {
            let points = world.points.entry(event.endpoint_id).or_default();
            for point in event.data_points {
                let value = match &point.values["value"] {
                    PointValue::Double(value) if *value == 1.0 => 1,
                    PointValue::Double(value) if *value == 0.0 => 0,
                    other => panic!("{other:?}"),
                };
                points.insert(point.timestamp, value);
            }
        }
        Some(TimeSeriesProcessed {
            correlation_id: event.correlation_id,
            timestamp: now_ms(),
            timeout: 0,
            status_code,
            reason_phrase: None,
        })
    };
    Responder::start(client, format!("{}.*", DATA_POINTS_RECEIVED.of_any()), answer).await
}
