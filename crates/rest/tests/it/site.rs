//! A process with one small service.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use ids::{ApplicationName, CorrelationId, TenantId};
use opentelemetry_sdk::metrics::{InMemoryMetricExporter, PeriodicReader, SdkMeterProvider};
use reqwest::{Client, RequestBuilder, Response};
use rest::{
    Access, Caller, Config, Created, Edge, Error, Json, Mounts, Page, PageOf, Path, Role, Rule, Scope,
    Stopping, Verify, Verifying, rule,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(crate) const KEY: &str = "key-of-the-tenant-harbour";

const ROUTES: &[Rule] = &[
    rule("GET", "/berths/api/v1/berths", "berth:read", Scope::Tenant),
    rule("POST", "/berths/api/v1/berths", "berth:create", Scope::Tenant),
    rule("GET", "/berths/api/v1/fail/{number}", "berth:read", Scope::Tenant),
    rule("GET", "/berths/api/v1/crash", "berth:read", Scope::Tenant),
    rule("GET", "/berths/api/v1/wait", "berth:read", Scope::Tenant),
    rule("GET", "/berths/api/v1/wait/long", "berth:read", Scope::Tenant).within_s(60),
    rule("GET", "/berths/api/v1/wait/second", "berth:read", Scope::Tenant).within_s(1),
    rule("GET", "/berths/api/v1/applications/{appName}", "application:read", Scope::Path("appName")),
    rule("GET", "/berths/api/v1/applications", "application:read", Scope::Handler),
    rule("GET", "/berths/api/v1/harbours", "kaa:harbour:read", Scope::Platform),
    rule("GET", "/berths/api/v1/open", "", Scope::Public),
    rule("GET", "/berths/api/v1/open/wait", "", Scope::Public),
];

/// The metrics of all edges of this test process.
pub(crate) static METRICS: LazyLock<(SdkMeterProvider, InMemoryMetricExporter)> = LazyLock::new(|| {
    let exporter = InMemoryMetricExporter::default();
    let reader = PeriodicReader::builder(exporter.clone()).with_interval(Duration::from_secs(3600)).build();
    let provider = SdkMeterProvider::builder().with_reader(reader).build();
    opentelemetry::global::set_meter_provider(provider.clone());
    (provider, exporter)
});

pub(crate) struct Site {
    pub(crate) address: SocketAddr,
    pub(crate) mounts: Mounts,
    pub(crate) stopping: CancellationToken,
    pub(crate) served: JoinHandle<()>,
    /// A `/wait` request has begun, and may go on.
    pub(crate) begun: Arc<Notify>,
    pub(crate) go_on: Arc<Notify>,
    client: Client,
}

pub(crate) async fn site() -> Site {
    site_with(|_| {}).await
}

pub(crate) async fn site_with(change: impl FnOnce(&mut Config)) -> Site {
    LazyLock::force(&METRICS);
    let mut config = Config { listen: ([127, 0, 0, 1], 0).into(), ..Config::default() };
    config.auth.api_key = KEY.to_owned();
    config.auth.tenant = Some(TenantId::parse("harbour").unwrap());
    change(&mut config);
    let edge = Edge::bind(&config).await.unwrap();
    let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let routes = OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(fail))
        .routes(routes!(crash))
        .routes(routes!(wait))
        .routes(routes!(wait_long))
        .routes(routes!(wait_second))
        .routes(routes!(application))
        .routes(routes!(applications))
        .routes(routes!(harbours))
        .routes(routes!(open))
        .routes(routes!(open_wait))
        .with_state((Arc::clone(&begun), Arc::clone(&go_on)));
    edge.authenticator().set_verifier(Arc::new(Register));
    let (address, mounts) = (edge.local_addr(), edge.mounts().clone());
    mounts.add(rest::service("berths", ROUTES, routes));
    mounts.complete();
    let stopping = CancellationToken::new();
    let served = tokio::spawn(edge.serve(stopping.clone()));
    Site { address, mounts, stopping, served, begun, go_on, client: Client::new() }
}

impl Site {
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// A request with the key.
    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.stranger_get(path).bearer_auth(KEY)
    }

    pub(crate) fn stranger_get(&self, path: &str) -> RequestBuilder {
        self.client.get(self.url(path))
    }

    pub(crate) fn post(&self, path: &str) -> RequestBuilder {
        self.client.post(self.url(path)).header("x-iamcore-api-key", KEY)
    }
}

/// The status and the message of an answer.
pub(crate) async fn failure(request: RequestBuilder) -> (u16, String) {
    failed(request.send().await.unwrap()).await
}

pub(crate) async fn failed(response: Response) -> (u16, String) {
    let status = response.status().as_u16();
    assert_eq!(response.headers()["content-type"], "application/json");
    let body: Value = response.json().await.unwrap();
    (status, body["message"].as_str().unwrap().to_owned())
}

type Signals = (Arc<Notify>, Arc<Notify>);

#[derive(Serialize, Deserialize, ToSchema)]
struct Berth {
    name: String,
    metres: u32,
}

/// Lists berths.
#[utoipa::path(get, path = "/berths/api/v1/berths", params(Page), responses((status = 200, body = PageOf<Berth>)))]
async fn list(caller: Caller, page: Page) -> Json<PageOf<Berth>> {
    let berth = Berth { name: caller.tenant.to_string(), metres: page.limit };
    Json(PageOf { total_elements: 1, content: vec![berth] })
}

/// Makes a berth.
#[utoipa::path(post, path = "/berths/api/v1/berths", request_body = Berth, responses((status = 201, body = Berth)))]
async fn create(_: Caller, Json(berth): Json<Berth>) -> Created<Berth> {
    Created { location: format!("/berths/api/v1/berths/{}", berth.name), body: berth }
}

/// Fails for a secret reason.
#[utoipa::path(get, path = "/berths/api/v1/fail/{number}", params(("number" = u32, Path)), responses((status = 200)))]
async fn fail(Path(number): Path<u32>) -> Result<(), Error> {
    Err(Error::internal(anyhow::anyhow!("the secret reason {number}")))
}

/// Has a bug.
#[utoipa::path(get, path = "/berths/api/v1/crash", responses((status = 200)))]
async fn crash() {
    panic!("a bug");
}

/// Waits until the test lets it go on.
#[utoipa::path(get, path = "/berths/api/v1/wait", responses((status = 200)))]
async fn wait(axum::extract::State((begun, go_on)): axum::extract::State<Signals>) -> &'static str {
    begun.notify_one();
    go_on.notified().await;
    "done"
}

/// Waits until the test lets it go on, or the process stops.
#[utoipa::path(get, path = "/berths/api/v1/wait/long", responses((status = 200)))]
async fn wait_long(signals: axum::extract::State<Signals>, stopping: Stopping) -> &'static str {
    tokio::select! {
        done = wait(signals) => done,
        () = stopping.begun() => "stopping",
    }
}

/// Waits, but for no more than a second.
#[utoipa::path(get, path = "/berths/api/v1/wait/second", responses((status = 200)))]
async fn wait_second(signals: axum::extract::State<Signals>) -> &'static str {
    wait(signals).await
}

/// Tells which application was reached.
#[utoipa::path(get, path = "/berths/api/v1/applications/{appName}", params(("appName" = String, Path)), responses((status = 200)))]
async fn application(Path(name): Path<String>) -> String {
    name
}

/// Tells which applications the caller reaches.
#[utoipa::path(get, path = "/berths/api/v1/applications", responses((status = 200)))]
async fn applications(caller: Caller) -> String {
    let Some(applications) = caller.applications() else { return "all".to_owned() };
    applications.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// Tells which tenant the caller is of.
#[utoipa::path(get, path = "/berths/api/v1/harbours", responses((status = 200)))]
async fn harbours(caller: Caller) -> String {
    caller.tenant.to_string()
}

/// Greets everybody.
#[utoipa::path(get, path = "/berths/api/v1/open", responses((status = 200)))]
async fn open() -> &'static str {
    "welcome"
}

/// Lets everybody wait.
#[utoipa::path(get, path = "/berths/api/v1/open/wait", responses((status = 200)))]
async fn open_wait(signals: axum::extract::State<Signals>) -> &'static str {
    wait(signals).await
}

/// Knows credentials of the form `<tenant>/<role>/<application>=<role>,...`.
#[derive(Debug)]
struct Register;

impl Verify for Register {
    fn verify<'a>(&'a self, credential: &'a str, _: &'a CorrelationId) -> Verifying<'a> {
        let mut parts = credential.split('/');
        let (Some(tenant), Some(role), Some(grants)) = (parts.next(), parts.next(), parts.next()) else {
            return Box::pin(async { Err(Error::unauthorized("unknown")) });
        };
        let grants = grants.split(',').filter_map(|grant| grant.split_once('='));
        let grants = grants
            .map(|(name, role)| (ApplicationName::parse(name).unwrap(), Role::parse(role).unwrap()))
            .collect();
        let access = Access {
            tenant: TenantId::parse(tenant).unwrap(),
            subject: "1".into(),
            name: "somebody".into(),
            role: Role::parse(role),
            grants,
            expires_at: None,
        };
        Box::pin(async { Ok(Arc::new(access)) })
    }
}
