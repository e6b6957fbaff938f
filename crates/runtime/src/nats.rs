//! The connection to NATS.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::Context as _;
use async_nats::{Client, ConnectOptions, Event};
use serde::Deserialize;

use crate::subjects::inbox_prefix;

const RECONNECT_DELAY_MAX: Duration = Duration::from_secs(2);

/// A password: debug output does not show it.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("***")
    }
}

/// Section `[nats]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `nats://[user:password@]host:port`, several separated by commas.
    pub url: String,
    /// Credentials beside those in the URL, for every service that `users` does not name.
    pub user: Option<String>,
    /// The password that belongs to `user`.
    pub password: Option<Secret>,
    /// The password of each service that has a NATS user of its own, which is named as the service; `edge` is the user that
    /// checks the credentials of REST calls.
    pub users: BTreeMap<String, Secret>,
    /// Messages that wait in each subscription; what comes above it is dropped, and its sender gets no answer.
    pub subscription_messages_max: usize,
    /// Messages that wait to be written to the server; publishers wait above it.
    pub outgoing_messages_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: "nats://127.0.0.1:4222".to_owned(),
            user: None,
            password: None,
            users: BTreeMap::new(),
            subscription_messages_max: 65_536,
            outgoing_messages_max: 4_096,
        }
    }
}

/// Connects under a service's replica id. The first connection is retried like every later one, so that services and
/// NATS may start in any order; until it stands the service is not ready.
pub(crate) async fn connect(config: &Config, service: &str, replica: &str) -> anyhow::Result<Client> {
    let mut options = ConnectOptions::new()
        .name(replica)
        .custom_inbox_prefix(inbox_prefix(service))
        .retry_on_initial_connect()
        .max_reconnects(None)
        .subscription_capacity(config.subscription_messages_max)
        .client_capacity(config.outgoing_messages_max)
        .connection_timeout(Duration::from_secs(5))
        .ping_interval(Duration::from_secs(10))
        .reconnect_delay_callback(|attempts| {
            let doubled = 50_u64.saturating_mul(1 << attempts.min(6));
            Duration::from_millis(doubled).min(RECONNECT_DELAY_MAX)
        })
        .event_callback({
            let name = replica.to_owned();
            move |event| {
                let name = name.clone();
                async move { log(&name, &event) }
            }
        });
    let servers: Vec<async_nats::ServerAddr> = config
        .url
        .split(',')
        .map(|url| url.trim().parse())
        .collect::<Result<_, _>>()
        .context("nats.url is not a NATS address; write nats://host:port")?;
    // The client itself ignores what stands in the URL.
    let in_url = servers
        .iter()
        .find_map(|server| Some((server.username()?.to_owned(), server.password()?.to_owned())));
    let shared = config.user.clone().zip(config.password.as_ref().map(|password| password.0.clone()));
    let own = config.users.get(service).map(|password| (service.to_owned(), password.0.clone()));
    if let Some((user, password)) = own.or(shared).or(in_url) {
        options = options.user_and_password(user, password);
    }
    options.connect(servers).await.context("connecting to NATS")
}

fn log(name: &str, event: &Event) {
    match event {
        Event::Connected | Event::Draining | Event::Closed => {
            tracing::debug!(replica = name, %event, "NATS connection")
        }
        Event::SlowConsumer(_) => {
            tracing::error!(replica = name, "messages were dropped: this replica reads them too slowly");
        }
        // What is refused would otherwise only be missed.
        Event::ServerError(error) if error.to_string().to_lowercase().contains("permissions violation") => {
            tracing::error!(replica = name, %error, "NATS refused; the service's subjects() must name it");
        }
        other => tracing::warn!(replica = name, event = %other, "NATS connection"),
    }
}
