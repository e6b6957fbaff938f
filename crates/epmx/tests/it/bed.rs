//! What every test works with.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use epmx::Epmx;
use futures::StreamExt as _;
use ids::{InstanceName, ReplicaId};
use ism::config::CONFIGURATION_REQUEST;
use ism::epmmp::{EP_METADATA_GET_REQUEST, EP_METADATA_KEYS_GET_REQUEST, EP_METADATA_PATCH_REQUEST};
use ism::esp::{CLIENT_DATA, EXTENSION_DATA};
use ism::{
    ClientData, ConfigurationRequest, ConfigurationResponse, EndpointMetadataGetRequest,
    EndpointMetadataGetResponse, EndpointMetadataKeysGetRequest, EndpointMetadataKeysGetResponse,
    EndpointMetadataPatchRequest, EndpointMetadataPatchResponse, ExtensionData, Record as _,
};
use parking_lot::Mutex;
use runtime::{entry, now_ms};
use serde_json::{Map, Value, json};
use testbed::{Responder, Testbed};

/// The metadata of one endpoint, and how the register behaves.
pub(crate) struct Endpoint {
    pub(crate) metadata: Value,
    pub(crate) version: u64,
    /// What is put into the metadata just before the next patches, as somebody else would.
    pub(crate) interference: Vec<(String, Value)>,
    /// Patches that were asked for.
    pub(crate) patches: Vec<Value>,
    /// Answered to patches instead of making them.
    pub(crate) refusal: Option<(i32, &'static str)>,
}

/// The endpoints by id.
pub(crate) type Register = Arc<Mutex<BTreeMap<String, Endpoint>>>;

pub(crate) struct Bed {
    pub(crate) testbed: Testbed,
    pub(crate) register: Register,
    _tekton: Responder,
    pub(crate) epr: Vec<Responder>,
    next: AtomicU64,
}

impl Bed {
    /// Starts the service with one endpoint, `e`, that has these metadata, for an application version with these settings.
    pub(crate) async fn start(settings: Value, metadata: Value) -> Self {
        let testbed = Testbed::start(&[entry::<Epmx>()], &[("epmx.update_attempts_max", "3")]).await;
        let endpoint =
            Endpoint { metadata, version: 1, interference: vec![], patches: vec![], refusal: None };
        let register = Arc::new(Mutex::new(BTreeMap::from([("e".to_owned(), endpoint)])));
        let tekton = tekton(&testbed.client, settings).await;
        let epr = epr(&testbed.client, &register).await;
        Self { testbed, register, _tekton: tekton, epr, next: AtomicU64::new(1) }
    }

    /// Sends as the gateway does: status, reason and payload.
    pub(crate) async fn send(&self, path: &str, payload: &str) -> (i32, String, Option<Value>) {
        self.send_as("e", path, payload, 10_000).await
    }

    pub(crate) async fn send_as(
        &self,
        endpoint: &str,
        path: &str,
        payload: &str,
        timeout: i64,
    ) -> (i32, String, Option<Value>) {
        let data = ClientData {
            correlation_id: "correlation-1".to_owned(),
            timestamp: now_ms(),
            timeout,
            app_version_name: "demo-v1".to_owned(),
            endpoint_id: Some(endpoint.to_owned()),
            resource_path: path.to_owned(),
            request_id: None,
            payload: Bytes::copy_from_slice(payload.as_bytes()),
            config_name: None,
        };
        let client = &self.testbed.client;
        let reply = EXTENSION_DATA
            .by(&InstanceName::parse("epmx").unwrap())
            .reply(&ReplicaId::parse("kpc-1").unwrap(), self.next.fetch_add(1, Ordering::Relaxed));
        let mut answers = client.subscribe(reply.clone()).await.unwrap();
        client.publish_with_reply(CLIENT_DATA.at("epmx"), reply, data.encode()).await.unwrap();
        let answer = tokio::time::timeout(testbed::PATIENCE, answers.next()).await.unwrap().unwrap();
        let answer = ExtensionData::decode(&answer.payload).unwrap();
        let payload = answer.payload.map(|payload| serde_json::from_slice(&payload).unwrap());
        (answer.status_code, answer.reason_phrase.unwrap_or_default(), payload)
    }

    /// A request that is answered well.
    pub(crate) async fn ask(&self, path: &str, payload: &str) -> Value {
        let (status, reason, payload) = self.send(path, payload).await;
        assert_eq!(status, 200, "{path} {reason}");
        payload.unwrap()
    }

    /// A change that is confirmed, without a payload.
    pub(crate) async fn change(&self, path: &str, payload: &str) {
        assert_eq!(self.send(path, payload).await, (200, String::new(), None), "{path} {payload}");
    }

    /// A request that is refused: the reason.
    pub(crate) async fn refused(&self, status: i32, path: &str, payload: &str) -> String {
        let (code, reason, answer) = self.send(path, payload).await;
        assert_eq!((code, answer), (status, None), "{path} {payload}: {reason}");
        reason
    }

    /// What the register holds.
    pub(crate) fn metadata(&self) -> Value {
        self.register.lock()["e"].metadata.clone()
    }

    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut Endpoint) -> T) -> T {
        act(self.register.lock().get_mut("e").unwrap())
    }
}

async fn tekton(client: &async_nats::Client, settings: Value) -> Responder {
    let answer = move |request: ConfigurationRequest| {
        let known = request.app_version_name.as_deref() == Some("demo-v1");
        Some(ConfigurationResponse {
            correlation_id: request.correlation_id,
            timestamp: now_ms(),
            timeout: 0,
            tenant_id: known.then(|| "acme".to_owned()),
            app_name: known.then(|| "demo".to_owned()),
            app_version_names: vec![],
            config: known.then(|| Bytes::from(settings.to_string())),
            status_code: if known { 200 } else { 404 },
            reason_phrase: None,
        })
    };
    Responder::start(client, CONFIGURATION_REQUEST.at("tekton"), answer).await
}

/// The endpoint register, as far as 19/EPMMP goes.
async fn epr(client: &async_nats::Client, register: &Register) -> Vec<Responder> {
    let known = register.clone();
    let keys = Responder::start(
        client,
        EP_METADATA_KEYS_GET_REQUEST.at("epr"),
        move |request: EndpointMetadataKeysGetRequest| Some(keys(&known, request)),
    );
    let known = register.clone();
    let get = Responder::start(
        client,
        EP_METADATA_GET_REQUEST.at("epr"),
        move |request: EndpointMetadataGetRequest| Some(get(&known, request)),
    );
    let known = register.clone();
    let patch = Responder::start(
        client,
        EP_METADATA_PATCH_REQUEST.at("epr"),
        move |request: EndpointMetadataPatchRequest| Some(patch(&known, request)),
    );
    vec![keys.await, get.await, patch.await]
}

fn keys(register: &Register, request: EndpointMetadataKeysGetRequest) -> EndpointMetadataKeysGetResponse {
    let register = register.lock();
    let endpoint = register.get(&request.endpoint_id);
    let keys = endpoint.map(|endpoint| endpoint.metadata.as_object().unwrap().keys().cloned().collect());
    EndpointMetadataKeysGetResponse {
        correlation_id: request.correlation_id,
        timestamp: now_ms(),
        timeout: 0,
        endpoint_id: request.endpoint_id,
        status_code: if keys.is_some() { 200 } else { 404 },
        keys: keys.unwrap_or_default(),
        reason_phrase: None,
    }
}

fn get(register: &Register, request: EndpointMetadataGetRequest) -> EndpointMetadataGetResponse {
    assert!(request.include_metadata);
    let register = register.lock();
    let endpoint = register.get(&request.endpoint_id);
    let wanted = |key: &String| request.include.is_empty() || request.include.contains(key);
    let metadata = endpoint.map(|endpoint| {
        let all = endpoint.metadata.as_object().unwrap().clone();
        all.into_iter().filter(|(key, _)| wanted(key)).collect::<Map<_, _>>()
    });
    EndpointMetadataGetResponse {
        correlation_id: request.correlation_id,
        timestamp: now_ms(),
        timeout: 0,
        endpoint_id: request.endpoint_id.clone(),
        e_tag: endpoint.map(|endpoint| endpoint.version.to_string()),
        status_code: if metadata.is_some() { 200 } else { 404 },
        reason_phrase: metadata.is_none().then(|| "the endpoint does not exist".to_owned()),
        payload: metadata.map(|metadata| Value::Object(metadata).to_string().into()),
        app_version_name: endpoint.map(|_| "demo-v1".to_owned()),
    }
}

fn patch(register: &Register, request: EndpointMetadataPatchRequest) -> EndpointMetadataPatchResponse {
    let mut register = register.lock();
    let (status_code, reason) = match register.get_mut(&request.endpoint_id) {
        None => (404, "the endpoint does not exist"),
        Some(endpoint) => apply(endpoint, &request),
    };
    EndpointMetadataPatchResponse {
        correlation_id: request.correlation_id,
        timestamp: now_ms(),
        timeout: 0,
        endpoint_id: request.endpoint_id,
        status_code,
        reason_phrase: (status_code != 200).then(|| reason.to_owned()),
    }
}

fn apply(endpoint: &mut Endpoint, request: &EndpointMetadataPatchRequest) -> (i32, &'static str) {
    let patch: Value = serde_json::from_slice(&request.patch).unwrap();
    endpoint.patches.push(patch.clone());
    if let Some(refusal) = endpoint.refusal {
        return refusal;
    }
    if !endpoint.interference.is_empty() {
        let (key, value) = endpoint.interference.remove(0);
        endpoint.metadata[key] = value;
        endpoint.version += 1;
    }
    if request.if_match.as_ref().is_some_and(|tag| *tag != endpoint.version.to_string()) {
        return (412, "the metadata have another tag");
    }
    let patch: json_patch::Patch = serde_json::from_value(patch).unwrap();
    match json_patch::patch(&mut endpoint.metadata, &patch) {
        Ok(()) => {
            endpoint.version += 1;
            (200, "")
        }
        Err(_) => (409, "the patch does not fit"),
    }
}

pub(crate) fn some_metadata() -> Value {
    json!({"name": "Device 1", "description": "The first sensor", "location": {"latitude": 27.6, "longitude": -81.5}})
}
