//! Applications are read once, kept, refreshed on change, and kept on while the register is away.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use ids::AppVersionName;
use ism::config::CONFIGURATION_REQUEST;
use ism::scmp::UPSERTED;
use ism::{BroadcastConfigurationUpdateEvent, ConfigurationRequest, ConfigurationResponse, Record as _};
use runtime::{Applications, LookupError, now_ms};
use testbed::{Events, Responder};
use testkit::eventually;

use crate::requester::start;

#[derive(Debug, Default, serde::Deserialize)]
struct Config {
    answer: usize,
}

/// A register that knows `demo-v1` of application `demo`, and counts its answers in the settings.
async fn tekton(client: &async_nats::Client, asked: Arc<AtomicUsize>) -> Responder {
    let answer = move |request: ConfigurationRequest| {
        assert_eq!(request.service_instance_name, "asker");
        let answer = asked.fetch_add(1, Ordering::SeqCst) + 1;
        let known = request.app_version_name.as_deref() == Some("demo-v1");
        Some(ConfigurationResponse {
            correlation_id: request.correlation_id,
            timestamp: now_ms(),
            timeout: 0,
            tenant_id: known.then(|| "acme".to_owned()),
            app_name: known.then(|| "demo".to_owned()),
            app_version_names: vec![],
            config: known.then(|| Bytes::from(format!("{{\"answer\":{answer}}}"))),
            status_code: if known { 200 } else { 404 },
            reason_phrase: None,
        })
    };
    Responder::start(client, CONFIGURATION_REQUEST.at("tekton"), answer).await
}

/// Tells all services that application `demo` has changed.
async fn announce(client: &async_nats::Client) {
    let changed = BroadcastConfigurationUpdateEvent {
        correlation_id: "c".to_owned(),
        timestamp: now_ms(),
        originator_replica_id: "tekton-1".to_owned(),
        tenant_id: Some("acme".to_owned()),
        app_name: Some("demo".to_owned()),
        app_ver_name: None,
    };
    let subject = UPSERTED.of(&ids::InstanceName::parse("tekton").unwrap());
    client.publish(subject, changed.encode()).await.unwrap();
    client.flush().await.unwrap();
}

fn name(text: &str) -> AppVersionName {
    AppVersionName::parse(text).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_is_asked_for_once_until_it_changes() {
    let (nats, _platform, context) = start().await;
    let client = nats.client().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let register = tekton(&client, asked.clone()).await;
    let applications: Applications<Config> = Applications::new(&context).await.unwrap();
    for _ in 0..10 {
        let version = applications.version(&name("demo-v1")).await.unwrap();
        assert_eq!(
            (version.app_name.as_str(), version.tenant_id.as_str(), version.config.answer),
            ("demo", "acme", 1)
        );
    }
    let unknown = applications.version(&name("demo-v9")).await;
    assert_eq!(unknown.unwrap_err(), LookupError::Unknown);
    assert_eq!(asked.load(Ordering::SeqCst), 2);

    announce(&client).await;
    eventually("the change is seen", Duration::from_secs(10), async || {
        (applications.version(&name("demo-v1")).await.unwrap().config.answer > 1).then_some(())
    })
    .await;

    // The register goes away and another change is announced: what is known serves on, what is not is unavailable.
    drop(register);
    announce(&client).await;
    let version = applications.version(&name("demo-v1")).await.unwrap();
    assert_eq!(version.app_name.as_str(), "demo");
    let other = applications.version(&name("other-v1")).await;
    assert!(matches!(other, Err(LookupError::Unavailable(_))), "{other:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_cannot_be_read_are_not_replaced_by_old_ones() {
    let (nats, _platform, context) = start().await;
    let client = nats.client().await;
    let applications: Applications<Config> = Applications::new(&context).await.unwrap();
    let good = tekton(&client, Arc::default()).await;
    assert_eq!(applications.version(&name("demo-v1")).await.unwrap().config.answer, 1);
    drop(good);
    let faulty = |request: ConfigurationRequest| {
        Some(ConfigurationResponse {
            correlation_id: request.correlation_id,
            timestamp: now_ms(),
            timeout: 0,
            tenant_id: Some("acme".to_owned()),
            app_name: Some("demo".to_owned()),
            app_version_names: vec![],
            config: Some(Bytes::from_static(b"{\"answer\":\"many\"}")),
            status_code: 200,
            reason_phrase: None,
        })
    };
    let _faulty = Responder::start(&client, CONFIGURATION_REQUEST.at("tekton"), faulty).await;
    announce(&client).await;
    let reason = eventually("the change is seen", Duration::from_secs(10), async || {
        applications.version(&name("demo-v1")).await.err()
    })
    .await;
    assert!(
        matches!(&reason, LookupError::Unavailable(text) if text.contains("demo") && text.contains("answer")),
        "{reason}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_from_before_a_change_does_not_stay() {
    let (nats, _platform, context) = start().await;
    let client = nats.client().await;
    let applications: Applications<Config> = Applications::new(&context).await.unwrap();
    let mut requests = client.subscribe(CONFIGURATION_REQUEST.at("tekton")).await.unwrap();
    // When this stands, the subscription before it does.
    let _ = Events::listen(&client, "nothing").await;
    let looking = tokio::spawn({
        let applications = applications.clone();
        async move { applications.version(&name("demo-v1")).await.unwrap().config.answer }
    });
    let request = tokio::time::timeout(Duration::from_secs(10), requests.next()).await.unwrap().unwrap();
    // While the answer is on its way, a change is announced.
    announce(&client).await;
    let correlation_id = ConfigurationRequest::decode(&request.payload).unwrap().correlation_id;
    let response = ConfigurationResponse {
        correlation_id,
        timestamp: now_ms(),
        timeout: 0,
        tenant_id: Some("acme".to_owned()),
        app_name: Some("demo".to_owned()),
        app_version_names: vec![],
        config: Some(Bytes::from_static(b"{\"answer\":99}")),
        status_code: 200,
        reason_phrase: None,
    };
    client.publish(request.reply.unwrap(), response.encode()).await.unwrap();
    assert_eq!(looking.await.unwrap(), 99);
    drop(requests);
    let _register = tekton(&client, Arc::default()).await;
    eventually("the register is asked again", Duration::from_secs(10), async || {
        (applications.version(&name("demo-v1")).await.unwrap().config.answer == 1).then_some(())
    })
    .await;
}
