//! Services start together, are watched together and stop in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use runtime::{Context, Platform, Service, Settings, entry};
use testkit::eventually;

#[derive(Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    fail_after_start: bool,
    end_after_start: bool,
}

struct Worker;

impl Service for Worker {
    const NAME: &'static str = "worker";
    type Config = Config;

    fn subjects() -> runtime::Subjects {
        runtime::Subjects::new()
    }

    async fn start(config: Config, context: Context) -> anyhow::Result<()> {
        context.mount(axum::Router::new().route("/worker/ping", axum::routing::get(async || "pong")));
        let stopping = context.stopping();
        context.spawn("work", async move {
            if config.fail_after_start {
                anyhow::bail!("the disk is full");
            }
            if !config.end_after_start {
                stopping.cancelled().await;
            }
            Ok(())
        });
        Ok(())
    }
}

pub(crate) fn settings(nats: &testkit::Nats, extra: &[(&str, &str)]) -> Settings {
    let mut layers = vec![
        ("nats.url".to_owned(), nats.url.clone()),
        ("http.listen".to_owned(), "127.0.0.1:0".to_owned()),
        ("http.auth.api_key".to_owned(), "a-key-for-tests-0123456789abcdef".to_owned()),
        ("http.auth.tenant".to_owned(), "test".to_owned()),
        ("http.auth.tenant_manager".to_owned(), "false".to_owned()),
    ];
    layers.extend(extra.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    Settings::from_layers(None, Vec::new(), layers)
}

async fn start(extra: &[(&str, &str)]) -> (testkit::Nats, Platform) {
    let nats = testkit::nats().await;
    let platform =
        Platform::start(&settings(&nats, extra), &[entry::<Worker>()], &["worker"], None).await.unwrap();
    (nats, platform)
}

async fn get(platform: &Platform, path: &str) -> (u16, String) {
    let response = reqwest::get(format!("http://{}{path}", platform.http_address())).await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_becomes_ready_and_stops_in_order() {
    let (nats, mut platform) = start(&[]).await;
    platform.ready().await.unwrap();
    assert_eq!(get(&platform, "/health").await.0, 200);
    assert_eq!(get(&platform, "/ready").await.0, 200);
    assert_eq!(get(&platform, "/worker/ping").await, (200, "pong".to_owned()));
    let address = platform.http_address();
    platform.stop().await.unwrap();
    assert!(reqwest::get(format!("http://{address}/health")).await.is_err());
    drop(nats);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_fails_or_ends_fails_the_process() {
    for (key, expected) in
        [("worker.fail_after_start", "the disk is full"), ("worker.end_after_start", "before its time")]
    {
        let (_nats, mut platform) = start(&[(key, "true")]).await;
        let error = tokio::time::timeout(Duration::from_secs(10), platform.failed()).await.unwrap();
        let text = format!("{error:#}");
        assert!(text.contains(expected) && text.contains("worker"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_follows_the_connection_to_nats() {
    let (mut nats, mut platform) = start(&[]).await;
    platform.ready().await.unwrap();
    nats.kill();
    eventually("not ready without NATS", Duration::from_secs(15), async || {
        let (status, body) = get(&platform, "/ready").await;
        (status == 503 && body.contains("not connected to NATS")).then_some(())
    })
    .await;
    nats.restart().await;
    eventually("ready again", Duration::from_secs(15), async || {
        (get(&platform, "/ready").await.0 == 200).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn accepted_work_is_finished_before_the_stop() {
    let (_nats, mut platform) = start(&[]).await;
    platform.ready().await.unwrap();
    let done = Arc::new(AtomicUsize::new(0));
    let context = platform.services()[0].clone();
    let (finish, may_finish) = tokio::sync::oneshot::channel::<()>();
    context.task({
        let done = done.clone();
        async move {
            may_finish.await.unwrap();
            done.fetch_add(1, Ordering::SeqCst);
        }
    });
    let stopping = context.stopping();
    tokio::spawn(async move {
        stopping.cancelled().await;
        finish.send(()).unwrap();
    });
    platform.stop().await.unwrap();
    assert_eq!(done.load(Ordering::SeqCst), 1);
}

#[test]
fn all_faults_of_all_sections_are_reported_together() {
    let layers = vec![
        ("worker.colour".to_owned(), "red".to_owned()),
        ("process.stop_grace_ms".to_owned(), "soon".to_owned()),
        ("kcp.port".to_owned(), "1".to_owned()),
    ];
    let settings = Settings::from_layers(None, Vec::new(), layers);
    let faults = Platform::check(&settings, &[entry::<Worker>()], &["worker"]).unwrap_err();
    let mut keys: Vec<_> = faults.0.iter().map(|fault| fault.key.as_str()).collect();
    keys.sort_unstable();
    keys.dedup();
    assert!(
        ["kcp", "process.stop_grace_ms", "worker.colour"].iter().all(|key| keys.contains(key)),
        "{faults}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_a_nats_that_is_away() {
    let (mut nats, mut platform) = start(&[("process.stop_grace_ms", "60000")]).await;
    platform.ready().await.unwrap();
    let context = platform.services()[0].clone();
    let mut subscription = context.subscribe("some.subject".to_owned(), None).await.unwrap();
    context.task(async move { while subscription.next().await.is_some() {} });
    nats.kill();
    eventually("NATS is gone", Duration::from_secs(15), async || {
        (get(&platform, "/ready").await.0 == 503).then_some(())
    })
    .await;
    let stopped = tokio::time::timeout(Duration::from_secs(20), platform.stop()).await;
    stopped.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_path_is_only_certain_when_all_services_have_started() {
    let (_nats, mut platform) = start(&[]).await;
    eventually("served", Duration::from_secs(10), async || {
        let (status, _) = get(&platform, "/nothing/here").await;
        assert!(status == 503 || status == 404, "{status}");
        (status == 404).then_some(())
    })
    .await;
    platform.ready().await.unwrap();
    let (status, body) = get(&platform, "/kp1/v/dcx/secret-token/json").await;
    assert!(status == 404 && !body.contains("secret-token"), "{body}");
}
