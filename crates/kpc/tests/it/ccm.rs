//! The register of client credentials that the tests play, and changes of settings.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use ids::InstanceName;
use ism::Record as _;
use ism::cap::{
    BASIC_REQUEST, BASIC_REVOKED, ClientBasicAuthenticationRequest, ClientBasicAuthenticationResponse,
    ClientCredentialsRevokedEvent,
};
use runtime::now_ms;
use testbed::Responder;

use crate::client::{Client, Packet, Will};
use crate::world::World;

/// Logins of tenant `acme`: the password of each is `secret`, the id of its credentials its name.
pub(crate) struct Logins {
    /// What is answered for each user name; 401 for others.
    pub(crate) statuses: Arc<Mutex<HashMap<String, i32>>>,
    /// How often the register was asked.
    pub(crate) questions: Arc<AtomicUsize>,
    _responder: Responder,
}

impl Logins {
    pub(crate) async fn start(world: &World, names: &[&str]) -> Self {
        let statuses: HashMap<_, _> = names.iter().map(|name| ((*name).to_owned(), 200)).collect();
        let statuses = Arc::new(Mutex::new(statuses));
        let questions = Arc::new(AtomicUsize::new(0));
        let (all, count) = (statuses.clone(), questions.clone());
        let answer = move |request: ClientBasicAuthenticationRequest| {
            count.fetch_add(1, Ordering::SeqCst);
            let is_known = request.tenant_id == "acme" && request.password.as_str() == "secret";
            let status = all.lock().unwrap().get(&request.username).copied().filter(|_| is_known);
            Some(ClientBasicAuthenticationResponse {
                correlation_id: request.correlation_id,
                timestamp: now_ms(),
                credentials_id: status.map(|_| request.username),
                status_code: status.unwrap_or(401),
                ..ClientBasicAuthenticationResponse::default()
            })
        };
        let responder = Responder::start(&world.client, BASIC_REQUEST.at("ccm"), answer).await;
        Self { statuses, questions, _responder: responder }
    }

    /// Answers with this status from now on.
    pub(crate) fn set(&self, name: &str, status: i32) {
        self.statuses.lock().unwrap().insert(name.to_owned(), status);
    }

    /// Revokes credentials and says so.
    pub(crate) async fn revoke(&self, world: &World, name: &str) {
        self.set(name, 403);
        let event = ClientCredentialsRevokedEvent {
            correlation_id: "r".to_owned(),
            timestamp: now_ms(),
            tenant_id: "acme".to_owned(),
            credentials_id: name.to_owned(),
            originator_replica_id: "ccm-1".to_owned(),
            ..ClientCredentialsRevokedEvent::default()
        };
        let ccm = InstanceName::parse("ccm").unwrap();
        world.client.publish(BASIC_REVOKED.of(&ccm), event.encode()).await.unwrap();
    }
}

/// Logs in as a user of tenant `acme` and expects to be accepted.
pub(crate) async fn log_in(port: u16, version: u8, client_id: &str, name: &str) -> Client {
    let (client, answer) = try_log_in(port, version, client_id, name, "secret").await;
    assert!(matches!(answer, Packet::ConnAck { code: 0, .. }), "{answer:?}");
    client
}

/// Logs in as a user of tenant `acme`.
pub(crate) async fn try_log_in(
    port: u16,
    version: u8,
    client_id: &str,
    name: &str,
    password: &str,
) -> (Client, Packet) {
    let mut client = Client::open(port, version).await;
    let username = format!("{name}@acme");
    let answer =
        client.say_connect(client_id, Some(username.as_bytes()), Some(password.as_bytes()), None).await;
    (client, answer.expect("the connection was closed"))
}

/// The code of the answer to CONNECT.
pub(crate) fn code(answer: &Packet) -> u8 {
    match answer {
        Packet::ConnAck { code, .. } => *code,
        other => panic!("{other:?}"),
    }
}

/// A will on a topic.
pub(crate) fn will(topic: &str, payload: &str) -> Option<Will> {
    Some(Will { topic: topic.to_owned(), payload: payload.to_owned(), delay_s: 0 })
}
