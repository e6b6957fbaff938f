//! What every test works with.

use std::sync::atomic::{AtomicU64, Ordering};

use async_nats::{HeaderMap, Subscriber};
use bytes::Bytes;
use cex::Cex;
use futures::StreamExt as _;
use ids::{InstanceName, ReplicaId};
use ism::config::CONFIGURATION_REQUEST;
use ism::endpoints::GET_REQUEST;
use ism::esp::{CLIENT_DATA, EXTENSION_DATA};
use ism::{
    ClientData, ConfigurationRequest, ConfigurationResponse, DeliveryReport, EndpointGetRequest,
    EndpointGetResponse, ExtensionData, Record as _,
};
use runtime::{entry, now_ms};
use serde_json::{Value, json};
use testbed::{ACME, OTHER, Responder, Rest, Testbed};
use tokio::sync::mpsc;

/// Pushes that a test may leave unread.
const PUSHES_MAX: usize = 10_000;

/// The service with registers. The tenant `acme` has the applications `meter` and `elsewhere`, `other` has `foreign`; each has
/// one version `<name>-v1`, and the endpoints whose ids begin with its name's first letter.
pub(crate) struct Bed {
    pub(crate) testbed: Testbed,
    _registers: [Responder; 2],
    next: AtomicU64,
}

/// A push as the gateway gets it.
#[derive(Debug)]
pub(crate) struct Push {
    pub(crate) endpoint_id: String,
    pub(crate) resource_path: String,
    pub(crate) payload: Value,
}

impl Bed {
    pub(crate) async fn start(settings: &[(&str, &str)]) -> Self {
        let testbed = Testbed::start(&[entry::<Cex>()], settings).await;
        let client = &testbed.client;
        let registers = tokio::join!(
            Responder::start(client, CONFIGURATION_REQUEST.at("tekton"), application),
            Responder::start(client, GET_REQUEST.at("epr"), endpoint),
        );
        Self { testbed, _registers: registers.into(), next: AtomicU64::new(1) }
    }

    pub(crate) fn acme(&self) -> Rest {
        self.testbed.rest(ACME)
    }

    pub(crate) fn other(&self) -> Rest {
        self.testbed.rest(OTHER)
    }

    /// A gateway that answers pushes as `report` says, and hands them on.
    pub(crate) async fn gateway(
        &self,
        mut report: impl FnMut(&Push) -> Option<i32> + Send + 'static,
    ) -> (Responder, mpsc::Receiver<Push>) {
        let (sender, pushes) = mpsc::channel(PUSHES_MAX);
        let answer = move |data: ExtensionData| {
            let push = Push {
                endpoint_id: data.endpoint_id.unwrap(),
                resource_path: data.resource_path,
                payload: serde_json::from_slice(&data.payload.unwrap()).unwrap(),
            };
            let status_code = report(&push);
            // The test may have seen enough.
            drop(sender.try_send(push));
            Some(DeliveryReport {
                correlation_id: data.correlation_id,
                timestamp: now_ms(),
                timeout: 0,
                status_code: status_code?,
                reason_phrase: None,
            })
        };
        let subject = EXTENSION_DATA.by(&InstanceName::parse("cex").unwrap()).at("kpc");
        (Responder::start(&self.testbed.client, subject, answer).await, pushes)
    }

    /// Says something as a device: status, reason and payload of the answer.
    pub(crate) async fn say(
        &self,
        endpoint: &str,
        path: &str,
        payload: &Value,
    ) -> (i32, String, Option<Value>) {
        answer(self.ask(endpoint, path, &payload.to_string(), None).await).await
    }

    /// As [`say`](Self::say) with any payload; the [`answer`] is awaited later. The device likes to wait for so many seconds.
    pub(crate) async fn ask(
        &self,
        endpoint: &str,
        path: &str,
        payload: &str,
        wait_s: Option<u32>,
    ) -> Subscriber {
        let data = ClientData {
            correlation_id: "correlation-1".to_owned(),
            timestamp: now_ms(),
            timeout: 10_000 + 1_000 * i64::from(wait_s.unwrap_or_default()),
            app_version_name: format!("{}-v1", application_of(endpoint).unwrap().1),
            endpoint_id: Some(endpoint.to_owned()),
            resource_path: path.to_owned(),
            request_id: None,
            payload: Bytes::copy_from_slice(payload.as_bytes()),
            config_name: None,
        };
        let client = &self.testbed.client;
        let (replica, slot) =
            (ReplicaId::parse("kpc-test").unwrap(), self.next.fetch_add(1, Ordering::Relaxed));
        let reply = EXTENSION_DATA.by(&InstanceName::parse("cex").unwrap()).reply(&replica, slot);
        let answers = client.subscribe(reply.clone()).await.unwrap();
        let mut headers = HeaderMap::new();
        if let Some(wait_s) = wait_s {
            headers.insert("Prefer", format!("wait={wait_s}"));
        }
        let subject = CLIENT_DATA.at("cex");
        client.publish_with_reply_and_headers(subject, reply, headers, data.encode()).await.unwrap();
        answers
    }

    /// Reports the result of a command; it must be taken.
    pub(crate) async fn report(&self, endpoint: &str, command_type: &str, result: Value) {
        let (status, reason, _) =
            self.say(endpoint, &format!("/result/{command_type}"), &json!([result])).await;
        assert_eq!(status, 200, "{reason}");
    }
}

/// What a device is answered: status, reason and payload.
pub(crate) async fn answer(mut answers: Subscriber) -> (i32, String, Option<Value>) {
    let answer = tokio::time::timeout(testbed::PATIENCE, answers.next()).await.unwrap().unwrap();
    let answer = ExtensionData::decode(&answer.payload).unwrap();
    let payload = answer.payload.map(|payload| serde_json::from_slice(&payload).unwrap());
    (answer.status_code, answer.reason_phrase.unwrap_or_default(), payload)
}

/// The tenant and the application of an endpoint.
pub(crate) fn application_of(endpoint: &str) -> Option<(&'static str, &'static str)> {
    [("acme", "meter"), ("acme", "elsewhere"), ("other", "foreign")]
        .into_iter()
        .find(|(_, application)| endpoint.as_bytes().first() == application.as_bytes().first())
}

fn application(request: ConfigurationRequest) -> Option<ConfigurationResponse> {
    let version = request.app_version_name.as_deref().and_then(|name| name.strip_suffix("-v1"));
    let name = request.app_name.as_deref().or(version).unwrap();
    let known = application_of(name).filter(|(_, application)| *application == name);
    Some(ConfigurationResponse {
        correlation_id: request.correlation_id,
        timestamp: now_ms(),
        timeout: 0,
        tenant_id: known.map(|(tenant, _)| tenant.to_owned()),
        app_name: known.map(|(_, application)| application.to_owned()),
        app_version_names: known.map(|(_, application)| format!("{application}-v1")).into_iter().collect(),
        config: known.map(|_| Bytes::from_static(b"{}")),
        status_code: if known.is_some() { 200 } else { 404 },
        reason_phrase: None,
    })
}

fn endpoint(request: EndpointGetRequest) -> Option<EndpointGetResponse> {
    let known = application_of(&request.endpoint_id).filter(|(tenant, _)| *tenant == request.tenant_id);
    Some(EndpointGetResponse {
        correlation_id: request.correlation_id,
        timestamp: now_ms(),
        timeout: 0,
        app_name: known.map(|(_, application)| application.to_owned()),
        app_version_name: known.map(|(_, application)| format!("{application}-v1")),
        status_code: if known.is_some() { 200 } else { 404 },
        reason_phrase: None,
    })
}
