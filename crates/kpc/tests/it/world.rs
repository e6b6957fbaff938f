//! What is around the gateway in these tests: NATS, two registers, an extension.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use ism::Record as _;
use ism::config::{CONFIGURATION_REQUEST, ConfigurationRequest, ConfigurationResponse};
use ism::ecap::{EP_TOKEN_REQUEST, EndpointTokenValidationRequest, EndpointTokenValidationResponse};
use ism::esp::{CLIENT_DATA, ClientData, ExtensionData};
use ism::scmp::{BroadcastConfigurationUpdateEvent, UPSERTED};
use kpc::Kpc;
use runtime::{Platform, Settings, entry, now_ms};
use tokio::sync::{Mutex, Notify};

/// The password of every NATS user.
const PASSWORD: &str = "secret-of-the-tests";

/// The surroundings of one or more gateways.
pub(crate) struct World {
    pub(crate) nats: testkit::Nats,
    pub(crate) client: async_nats::Client,
    pub(crate) extension: Arc<Extension>,
    /// How often the token register was asked.
    pub(crate) token_questions: Arc<AtomicUsize>,
    /// Tokens that the register refuses from now on.
    pub(crate) revoked: Arc<AtomicBool>,
    /// The gateway's settings, in JSON, of a tenant or of an application version.
    settings: Arc<std::sync::Mutex<HashMap<String, String>>>,
}

/// A running gateway.
pub(crate) struct Gate {
    pub(crate) platform: Platform,
    pub(crate) mqtt: u16,
    _port: testkit::Port,
}

/// An extension instance `echo`; what it does depends on the resource path.
#[derive(Default)]
pub(crate) struct Extension {
    /// What it was asked.
    pub(crate) received: Mutex<Vec<ClientData>>,
    /// Lets one message on `/gate` pass.
    pub(crate) gate: Notify,
    /// How many messages on `/flaky` fail before one succeeds.
    pub(crate) failures: AtomicUsize,
}

impl World {
    pub(crate) async fn new() -> Self {
        // The gateway has a user of its own, as in production: what its subjects() do not name is refused.
        let users = runtime::nats_users(&[entry::<Kpc>()]).unwrap();
        let users = runtime::nats_authorization(&users, |_| PASSWORD.to_owned());
        let test = format!("    {{ user: test, password: {PASSWORD} }}\n");
        let nats = testkit::nats_with(&format!("authorization {{\n  users: [\n{users}{test}  ]\n}}\n")).await;
        // With inboxes as foreign extensions have them.
        let options = async_nats::ConnectOptions::with_user_and_password("test".into(), PASSWORD.into());
        let client = options.connect(&nats.url).await.unwrap();
        let world = Self {
            nats,
            client,
            extension: Arc::default(),
            token_questions: Arc::default(),
            revoked: Arc::default(),
            settings: Arc::default(),
        };
        world.play_application_register().await;
        world.play_token_register().await;
        world.register("echo", true).await;
        world.register("dead", true).await;
        world.register("anyone", false).await;
        for name in ["echo", "anyone"] {
            let messages = world.client.subscribe(CLIENT_DATA.at(name)).await.unwrap();
            tokio::spawn(serve(world.client.clone(), messages, world.extension.clone(), name));
        }
        world.client.flush().await.unwrap();
        world
    }

    /// Announces an extension.
    pub(crate) async fn register(&self, name: &str, endpoint_aware: bool) {
        let registration = serde_json::json!({
            "name": name, "version": "1", "protocol": "esp", "endpointAware": endpoint_aware,
        });
        let bucket = extension::bucket(&self.client).await.unwrap();
        bucket.put(name, registration.to_string().into()).await.unwrap();
    }

    /// Starts a gateway.
    pub(crate) async fn gate(&self, extra: &[(&str, &str)]) -> Gate {
        let port = testkit::Port::reserve();
        let mut platform = self.start(port.number(), extra).await;
        platform.ready().await.unwrap();
        Gate { platform, mqtt: port.number(), _port: port }
    }

    /// Begins to start a gateway.
    pub(crate) async fn start(&self, mqtt: u16, extra: &[(&str, &str)]) -> Platform {
        let mut layers = vec![
            ("nats.url".to_owned(), self.nats.url.clone()),
            ("nats.users.kpc".to_owned(), PASSWORD.to_owned()),
            ("nats.users.edge".to_owned(), PASSWORD.to_owned()),
            ("http.listen".to_owned(), "127.0.0.1:0".to_owned()),
            ("http.auth.api_key".to_owned(), "a-key-for-tests-0123456789abcdef".to_owned()),
            ("http.auth.tenant".to_owned(), "acme".to_owned()),
            ("http.auth.tenant_manager".to_owned(), "false".to_owned()),
            ("kpc.mqtt.listen".to_owned(), format!("127.0.0.1:{mqtt}")),
            ("kpc.mqtt.ws.enabled".to_owned(), "false".to_owned()),
            ("kpc.mqtt.workers".to_owned(), "2".to_owned()),
        ];
        layers.extend(extra.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        let settings = Settings::from_layers(None, Vec::new(), layers);
        Platform::start(&settings, &[entry::<Kpc>()], &["kpc"], None).await.unwrap()
    }

    /// Changes the gateway's settings of a tenant or a version, and tells nobody.
    pub(crate) fn set(&self, key: &str, settings: &str) {
        self.settings.lock().unwrap().insert(key.to_owned(), settings.to_owned());
    }

    /// Changes the gateway's settings of a tenant, or of a version of its application `demo`, and says so.
    pub(crate) async fn configure(&self, tenant: &str, app_version: Option<&str>, settings: &str) {
        self.set(app_version.unwrap_or(tenant), settings);
        let event = BroadcastConfigurationUpdateEvent {
            correlation_id: "change".to_owned(),
            timestamp: now_ms(),
            originator_replica_id: "tekton-1".to_owned(),
            tenant_id: Some(tenant.to_owned()),
            app_name: app_version.map(|_| "demo".to_owned()),
            app_ver_name: app_version.map(str::to_owned),
        };
        let tekton = ids::InstanceName::parse("tekton").unwrap();
        self.client.publish(UPSERTED.of(&tekton), event.encode()).await.unwrap();
        self.client.flush().await.unwrap();
    }

    /// Events of a subject, for the test to look at.
    pub(crate) async fn listen(&self, subject: String) -> async_nats::Subscriber {
        let events = self.client.subscribe(subject).await.unwrap();
        self.client.flush().await.unwrap();
        events
    }

    /// `demo-v1` is a version of `demo`, and so on; `closed-v1` may use no extension; `other` is of another tenant.
    async fn play_application_register(&self) {
        let (client, settings) = (self.client.clone(), self.settings.clone());
        let mut requests = client.subscribe(CONFIGURATION_REQUEST.at("tekton")).await.unwrap();
        tokio::spawn(async move {
            while let Some(message) = requests.next().await {
                let request = ConfigurationRequest::decode(&message.payload).unwrap();
                let name = request.app_version_name.as_deref().and_then(|name| name.strip_suffix("-v1"));
                let app_name = name.filter(|name| ["demo", "closed", "counted", "other"].contains(name));
                let key = request.app_version_name.as_ref().or(request.tenant_id.as_ref()).unwrap();
                let closed =
                    || (name == Some("closed")).then_some(r#"{"allowed-extension-instances":[]}"#.to_owned());
                let config = settings.lock().unwrap().get(key).cloned().or_else(closed).map(Bytes::from);
                let is_known = app_name.is_some() || request.tenant_id.is_some();
                let tenant = if name == Some("other") { "umbrella" } else { "acme" };
                let app_name = app_name.map(str::to_owned);
                let response = ConfigurationResponse {
                    correlation_id: request.correlation_id,
                    timestamp: now_ms(),
                    status_code: if is_known { 200 } else { 404 },
                    tenant_id: request.tenant_id.or(app_name.as_ref().map(|_| tenant.to_owned())),
                    app_version_names: request.app_version_name.into_iter().collect(),
                    app_name,
                    config,
                    ..ConfigurationResponse::default()
                };
                client.publish(message.reply.unwrap(), response.encode()).await.unwrap();
            }
        });
    }

    /// Tokens `t1`, `t1b`, ... belong to endpoint `e1`, and so on; `suspended` may not be used.
    async fn play_token_register(&self) {
        let (client, questions, revoked) =
            (self.client.clone(), self.token_questions.clone(), self.revoked.clone());
        let mut requests = client.subscribe(EP_TOKEN_REQUEST.at("cm")).await.unwrap();
        tokio::spawn(async move {
            while let Some(message) = requests.next().await {
                questions.fetch_add(1, Ordering::SeqCst);
                let request = EndpointTokenValidationRequest::decode(&message.payload).unwrap();
                let token = request.token.as_str();
                let number = token.strip_prefix('t').map(|rest| rest.trim_end_matches(char::is_alphabetic));
                let known = number.filter(|number| number.parse::<u32>().is_ok());
                let status_code = match known {
                    _ if token == "suspended" => 403,
                    Some(_) if revoked.load(Ordering::SeqCst) => 403,
                    Some(_) => 200,
                    None => 404,
                };
                let known = known.filter(|_| status_code == 200);
                let response = EndpointTokenValidationResponse {
                    correlation_id: request.correlation_id,
                    timestamp: now_ms(),
                    token_id: known.map(|_| token.to_owned()),
                    endpoint_id: known.map(|number| format!("e{number}")),
                    status_code,
                    ..EndpointTokenValidationResponse::default()
                };
                client.publish(message.reply.unwrap(), response.encode()).await.unwrap();
            }
        });
    }
}

async fn serve(
    client: async_nats::Client,
    mut messages: async_nats::Subscriber,
    extension: Arc<Extension>,
    name: &'static str,
) {
    while let Some(message) = messages.next().await {
        let data = ClientData::decode(&message.payload).unwrap();
        extension.received.lock().await.push(data.clone());
        let (client, extension) = (client.clone(), extension.clone());
        tokio::spawn(async move {
            if data.resource_path == "/garbled" {
                client.publish(message.reply.unwrap(), "no record".into()).await.unwrap();
            } else if let Some(answer) = extension.answer(name, data).await {
                client.publish(message.reply.unwrap(), answer.encode()).await.unwrap();
            }
        });
    }
}

impl Extension {
    async fn answer(&self, name: &str, data: ClientData) -> Option<ExtensionData> {
        let (status_code, payload, reason) = match data.resource_path.as_str() {
            "/refuse" => (400, None, Some("bad sample")),
            "/down" => (503, None, Some("the store is down")),
            "/flaky" if self.failures.load(Ordering::SeqCst) > 0 => {
                self.failures.fetch_sub(1, Ordering::SeqCst);
                (503, None, Some("the store is down"))
            }
            // The request id is the status.
            "/answer" => (data.request_id.unwrap(), None, Some("as asked")),
            "/unchanged" => (304, None, None),
            "/empty" => (200, None, None),
            "/silent" => return None,
            "/gate" => {
                self.gate.notified().await;
                (200, Some(data.payload), None)
            }
            _ => (200, Some(data.payload), None),
        };
        Some(ExtensionData {
            correlation_id: data.correlation_id,
            timestamp: now_ms(),
            timeout: 10_000,
            app_version_name: Some(data.app_version_name),
            extension_instance_name: Some(name.to_owned()),
            endpoint_id: data.endpoint_id,
            resource_path: data.resource_path,
            request_id: data.request_id,
            payload,
            status_code,
            reason_phrase: reason.map(str::to_owned),
        })
    }

    /// Waits until a message with this payload has come.
    pub(crate) async fn has(&self, payload: &str) -> ClientData {
        testkit::eventually("the extension gets the message", Duration::from_secs(10), async || {
            let received = self.received.lock().await;
            received.iter().find(|data| data.payload == payload.as_bytes()).cloned()
        })
        .await
    }

    pub(crate) async fn count(&self) -> usize {
        self.received.lock().await.len()
    }
}
