//! What every test of this part works with.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use async_nats::Subscriber;
use bytes::Bytes;
use futures::StreamExt as _;
use ids::{InstanceName, ReplicaId};
use ism::cip::{COMMAND_REQUEST, COMMAND_RESULT};
use ism::elce::CONNECTED;
use ism::epmmp::EP_APP_VERSION_GET_REQUEST;
use ism::{
    AppVersionsByEndpointsRequest, AppVersionsByEndpointsResponse, CommandInvocationRequest,
    CommandInvocationResult, ConnectedEvent, Record as _,
};
use parking_lot::Mutex;
use runtime::now_ms;
use serde_json::Value;
use sqlx::PgPool;
use testbed::{PATIENCE, Responder, Rest};
use testkit::eventually;

use crate::bed::{self, Push, answer};

/// The one endpoint that is commanded here.
pub(crate) const ENDPOINT: &str = "e";
/// Its application version.
pub(crate) const VERSION: &str = "elsewhere-v1";

/// The status of the report of a push; none: no report.
type Report = Box<dyn FnMut(&Push) -> Option<i32> + Send>;

/// A push that the gateway has got.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Got {
    pub(crate) path: String,
    pub(crate) commands: Value,
}

impl Got {
    pub(crate) fn ids(&self) -> Vec<i64> {
        ids(&self.commands)
    }
}

/// The ids of the commands in a payload for a device.
pub(crate) fn ids(commands: &Value) -> Vec<i64> {
    commands.as_array().unwrap().iter().map(|command| command["id"].as_i64().unwrap()).collect()
}

/// What the gateway has got, and how it reports.
struct Gateway {
    got: Vec<Got>,
    report: Report,
}

pub(crate) struct Bed {
    bed: bed::Bed,
    pub(crate) sql: PgPool,
    gateway: Arc<Mutex<Gateway>>,
    _services: [Responder; 2],
    next: AtomicI32,
}

impl Bed {
    /// Starts the service with these settings, and with a gateway that holds no endpoint.
    pub(crate) async fn start(settings: &[(&str, &str)]) -> Self {
        let bed = bed::Bed::start(settings).await;
        let gateway = Arc::new(Mutex::new(Gateway { got: vec![], report: Box::new(|_| Some(404)) }));
        let played = gateway.clone();
        let (responder, _) = bed
            .gateway(move |push| {
                let mut gateway = played.lock();
                let got = Got { path: push.resource_path.clone(), commands: push.payload.clone() };
                gateway.got.push(got);
                (gateway.report)(push)
            })
            .await;
        let register = Responder::start(&bed.testbed.client, EP_APP_VERSION_GET_REQUEST.at("epr"), versions);
        let services = [responder, register.await];
        let sql = PgPool::connect(&bed.testbed.database.url).await.unwrap();
        Self { bed, sql, gateway, _services: services, next: AtomicI32::new(1_001) }
    }

    /// What the gateway reports from now on.
    pub(crate) fn report(&self, report: impl FnMut(&Push) -> Option<i32> + Send + 'static) {
        self.gateway.lock().report = Box::new(report);
    }

    /// The pushes until now.
    pub(crate) fn pushes(&self) -> Vec<Got> {
        self.gateway.lock().got.clone()
    }

    /// The pushes, once there are so many.
    pub(crate) async fn pushed(&self, at_least: usize) -> Vec<Got> {
        eventually("pushes", PATIENCE, async || Some(self.pushes()).filter(|all| all.len() >= at_least)).await
    }

    /// Another service invokes a command, under an id of its own; the result comes to the subscriber.
    pub(crate) async fn invoke(&self, command_type: &str, payload: Option<&str>, ttl_ms: i64) -> Subscriber {
        let command_id = self.next.fetch_add(1, Ordering::Relaxed);
        self.invoke_as(request(command_id, command_type, payload, ttl_ms)).await
    }

    pub(crate) async fn invoke_as(&self, request: CommandInvocationRequest) -> Subscriber {
        let slot = u64::try_from(self.next.fetch_add(1, Ordering::Relaxed)).unwrap();
        let reply = COMMAND_RESULT.reply(&ReplicaId::parse("test-0").unwrap(), slot);
        let client = &self.bed.testbed.client;
        let answers = client.subscribe(reply.clone()).await.unwrap();
        client.publish_with_reply(COMMAND_REQUEST.at("cex"), reply, request.encode()).await.unwrap();
        answers
    }

    /// REST, called by the endpoint's tenant.
    pub(crate) fn acme(&self) -> Rest {
        self.bed.acme()
    }

    /// The device asks, and likes to wait for so many seconds.
    pub(crate) async fn ask(&self, path: &str, wait_s: u32) -> Subscriber {
        self.bed.ask(ENDPOINT, path, "", Some(wait_s)).await
    }

    /// What a device gets that asks.
    pub(crate) async fn poll(&self, path: &str, payload: &str) -> Value {
        let (status, reason, commands) = answer(self.bed.ask(ENDPOINT, path, payload, None).await).await;
        assert_eq!(status, 200, "{path} {payload}: {reason}");
        commands.unwrap()
    }

    /// A request that is refused: the reason.
    pub(crate) async fn refused(&self, status: i32, path: &str, payload: &str) -> String {
        let (code, reason, answer) = answer(self.bed.ask(ENDPOINT, path, payload, None).await).await;
        assert_eq!((code, answer), (status, None), "{path} {payload}: {reason}");
        reason
    }

    /// The device reports results, and has the receipt.
    pub(crate) async fn result(&self, command_type: &str, payload: &str) {
        let path = format!("/result/{command_type}");
        let answered = answer(self.bed.ask(ENDPOINT, &path, payload, None).await).await;
        assert_eq!(answered, (200, String::new(), None), "{payload}");
    }

    /// The gateway tells that the endpoint has connected.
    pub(crate) async fn connect(&self) {
        let event = ConnectedEvent {
            correlation_id: "c".to_owned(),
            timestamp: now_ms(),
            timeout: 0,
            endpoints: BTreeMap::from([(ENDPOINT.to_owned(), VERSION.to_owned())]),
            originator_replica_id: "kpc-test".to_owned(),
        };
        self.publish(CONNECTED.of(&InstanceName::parse("kpc").unwrap()), event.encode()).await;
    }

    pub(crate) async fn publish(&self, subject: String, payload: Bytes) {
        self.bed.testbed.client.publish(subject, payload).await.unwrap();
    }

    /// The states that a command has reached, in order.
    pub(crate) async fn states(&self, command_type: &str, command_id: i32) -> Vec<String> {
        let sql = "SELECT t.state FROM cex.transitions t JOIN cex.commands c USING (command_key) \
                   WHERE c.endpoint_id = $1 AND c.command_type = $2 AND c.command_id = $3 \
                   ORDER BY t.at, t.transition_key";
        let states = sqlx::query_scalar(sql).bind(ENDPOINT).bind(command_type).bind(command_id);
        states.fetch_all(&self.sql).await.unwrap()
    }

    /// Waits until a command is in a state.
    pub(crate) async fn reaches(&self, command_type: &str, command_id: i32, state: &str) {
        let what = format!("command {command_type}/{command_id} is {state}");
        let sql = "SELECT state FROM cex.commands WHERE command_type = $1 AND command_id = $2";
        eventually(&what, PATIENCE, async || {
            let found = sqlx::query_scalar(sql).bind(command_type).bind(command_id);
            let found: Option<String> = found.fetch_optional(&self.sql).await.unwrap();
            (found.as_deref() == Some(state)).then_some(())
        })
        .await;
    }

    pub(crate) async fn stop(self) {
        self.bed.testbed.stop().await;
    }
}

pub(crate) fn request(
    command_id: i32,
    command_type: &str,
    payload: Option<&str>,
    ttl_ms: i64,
) -> CommandInvocationRequest {
    CommandInvocationRequest {
        correlation_id: format!("invocation-{command_id}"),
        timestamp: now_ms(),
        timeout: ttl_ms,
        endpoint_id: ENDPOINT.to_owned(),
        command_type: command_type.to_owned(),
        command_id,
        payload: payload.map(|payload| Bytes::copy_from_slice(payload.as_bytes())),
    }
}

/// The answer to a service that has invoked a command.
pub(crate) async fn outcome(answers: &mut Subscriber) -> CommandInvocationResult {
    let answer = tokio::time::timeout(PATIENCE, answers.next()).await.unwrap().unwrap();
    assert!(answer.status.is_none(), "nobody answers 12/CIP");
    CommandInvocationResult::decode(&answer.payload).unwrap()
}

/// The endpoint register, as far as it tells application versions.
fn versions(request: AppVersionsByEndpointsRequest) -> Option<AppVersionsByEndpointsResponse> {
    let known: Vec<String> = request.endpoint_ids.iter().filter(|id| *id == ENDPOINT).cloned().collect();
    let versions = (!known.is_empty()).then(|| (VERSION.to_owned(), known));
    Some(AppVersionsByEndpointsResponse {
        correlation_id: request.correlation_id,
        timestamp: now_ms(),
        timeout: 0,
        endpoint_ids: request.endpoint_ids,
        app_versions_to_endpoints: versions.into_iter().collect(),
        status_code: 200,
        reason_phrase: None,
    })
}
