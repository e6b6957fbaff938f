//! What a tenant demands of the clients that speak for its endpoints, by transport: its settings for the gateway. When it
//! demands more, the connections that do not meet it end.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use ids::TenantId;
use runtime::Changes;
use serde::Deserialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clients::Client;
use crate::gateway::Gateway;
use crate::outbox::CloseReason;
use crate::peer::Transport;

/// When connections are looked at after a change, counted from the last time. Several times, because the register may
/// not answer at first, and because somebody else may be asking it while what was known before still serves.
const ROUNDS: [Duration; 5] = [
    Duration::from_millis(10),
    Duration::from_millis(100),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(10),
];
/// How often all connections are looked at without a change, in case one was missed.
const EVERY: Duration = Duration::from_secs(60);
/// Tenants whose settings are asked for at once.
const AT_ONCE: usize = 64;

/// The gateway's settings of a tenant.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct TenantSettings {
    transports: Transports,
}

#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Transports {
    mqtt: Mqtt,
}

#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Mqtt {
    tcp: Switches,
    /// WebSocket, plain or over TLS.
    ws: Switches,
    tls: Switches,
}

#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Switches {
    basic_auth: Switch,
    x509_auth: Switch,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Switch {
    required: bool,
}

impl TenantSettings {
    /// Whether a client may speak for the tenant over the transport.
    ///
    /// # Errors
    /// What it lacks.
    pub(crate) fn admit(&self, transport: Transport, client: Option<&Client>) -> Result<(), &'static str> {
        let mqtt = &self.transports.mqtt;
        let switches = match transport {
            Transport::Tcp => &mqtt.tcp,
            Transport::Tls => &mqtt.tls,
            Transport::Ws | Transport::Wss => &mqtt.ws,
        };
        if switches.basic_auth.required && client.is_none_or(|client| client.basic.is_none()) {
            return Err(
                "the tenant requires user name and password on this transport; connect with basic credentials",
            );
        }
        if switches.x509_auth.required && client.is_none_or(|client| client.certificate.is_none()) {
            return Err("the tenant requires a client certificate on this transport; connect with one");
        }
        Ok(())
    }
}

/// The changes that are being acted upon.
#[derive(Debug, PartialEq, Eq)]
struct Rounds {
    next: Instant,
    done: usize,
    tenants: BTreeSet<TenantId>,
    /// Any tenant may have changed.
    all: bool,
}

impl Rounds {
    fn new(now: Instant) -> Self {
        Self { next: now + EVERY, done: ROUNDS.len(), tenants: BTreeSet::new(), all: false }
    }

    fn changed(&mut self, tenant: Option<TenantId>, now: Instant) {
        match tenant {
            Some(tenant) => drop(self.tenants.insert(tenant)),
            None => self.all = true,
        }
        self.done = 0;
        self.next = self.next.min(now + ROUNDS[0]);
    }

    /// Whose connections are looked at now; none: everybody's.
    fn due(&self) -> Option<BTreeSet<TenantId>> {
        let is_routine = self.done == ROUNDS.len();
        (!self.all && !is_routine).then(|| self.tenants.clone())
    }

    fn done(&mut self, now: Instant) {
        self.done = (self.done + 1).min(ROUNDS.len());
        self.next = now + ROUNDS.get(self.done).copied().unwrap_or(EVERY);
        if self.done == ROUNDS.len() {
            (self.tenants, self.all) = (BTreeSet::new(), false);
        }
    }
}

impl Gateway {
    /// Ends connections that no longer meet their tenants' demands, until the service stops.
    pub(crate) async fn follow_switches(
        self: Arc<Self>,
        mut changes: Changes,
        stopping: CancellationToken,
    ) -> anyhow::Result<()> {
        let mut rounds = Rounds::new(Instant::now());
        loop {
            tokio::select! {
                tenant = changes.next() => {
                    self.clients.switched();
                    rounds.changed(tenant, Instant::now());
                }
                () = tokio::time::sleep_until(rounds.next) => {
                    self.enforce_switches(rounds.due()).await;
                    rounds.done(Instant::now());
                }
                () = stopping.cancelled() => return Ok(()),
            }
        }
    }

    /// Ends the connections that do not meet the demands of these tenants, or of any.
    async fn enforce_switches(&self, tenants: Option<BTreeSet<TenantId>>) {
        let tenants = tenants.unwrap_or_else(|| {
            let mut all = BTreeSet::new();
            self.connections.each(|connection| all.extend(connection.tenants()));
            all
        });
        let looks = tenants.into_iter().map(async |tenant| {
            let found = self.clients.settings(&tenant).await;
            let found = found.inspect_err(|error| {
                tracing::warn!(%tenant, %error, "the settings of a tenant cannot be read");
            });
            Some((tenant, found.ok()?))
        });
        // Beside each other: a register that does not answer must not hold up the others for each tenant anew.
        let found: Vec<_> = futures::stream::iter(looks).buffer_unordered(AT_ONCE).collect().await;
        let settings: HashMap<_, _> = found.into_iter().flatten().collect();
        if settings.is_empty() {
            return;
        }
        self.connections.each(|connection| {
            let (transport, client) = (connection.transport, connection.client.as_deref());
            let lacks = connection.tenants().iter().find_map(|tenant| {
                let lacks = settings.get(tenant)?.admit(transport, client).err()?;
                Some((tenant.clone(), lacks))
            });
            if let Some((tenant, lacks)) = lacks {
                tracing::info!(client_id = &*connection.client_id, %tenant, "closing a connection: {lacks}");
                self.metrics.unauthenticated(transport);
                self.metrics.closed("switch");
                connection.close(CloseReason::Unauthenticated);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::tests::client;

    fn settings(json: &str) -> TenantSettings {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn nothing_is_required_unless_it_is_said() {
        for json in ["{}", r#"{"transports": {"mqtt": {"tls": {"basic-auth": {"required": false}}}}}"#] {
            for transport in [Transport::Tcp, Transport::Tls, Transport::Ws, Transport::Wss] {
                assert_eq!(settings(json).admit(transport, None), Ok(()));
            }
        }
    }

    #[test]
    fn whatever_the_schema_takes_is_understood() {
        let examples = include_str!("../../../proto-schemas/json/configuration/kpc.tenant.examples.json");
        let examples: serde_json::Value = serde_json::from_str(examples).unwrap();
        for example in examples["valid"].as_array().unwrap() {
            settings(&example.to_string());
        }
    }

    #[test]
    fn each_transport_has_its_own_switches_and_each_method_its_own() {
        let tls = settings(
            r#"{"transports": {"mqtt": {"tls": {"basic-auth": {"required": true}, "x509-auth": {"required": true}}}}}"#,
        );
        let (basic, certificate) = (client(Some("b"), None), client(None, Some("c")));
        let both = client(Some("b"), Some("c"));
        assert!(tls.admit(Transport::Tcp, None).is_ok() && tls.admit(Transport::Wss, None).is_ok());
        assert!(tls.admit(Transport::Tls, None).is_err());
        assert!(tls.admit(Transport::Tls, Some(&basic)).unwrap_err().contains("certificate"));
        assert!(tls.admit(Transport::Tls, Some(&certificate)).unwrap_err().contains("password"));
        assert!(tls.admit(Transport::Tls, Some(&both)).is_ok());
        let ws = settings(r#"{"transports": {"mqtt": {"ws": {"basic-auth": {"required": true}}}}}"#);
        assert!(ws.admit(Transport::Ws, None).is_err() && ws.admit(Transport::Wss, None).is_err());
        assert!(ws.admit(Transport::Ws, Some(&basic)).is_ok() && ws.admit(Transport::Tls, None).is_ok());
    }

    #[test]
    fn a_change_is_acted_upon_several_times_and_soon_even_if_more_come() {
        let tenant = |name: &str| TenantId::parse(name).unwrap();
        let mut now = Instant::now();
        let mut rounds = Rounds::new(now);
        assert_eq!((rounds.next, rounds.due()), (now + EVERY, None));
        rounds.changed(Some(tenant("one")), now);
        let next = rounds.next;
        rounds.changed(Some(tenant("two")), now + Duration::from_millis(5));
        assert_eq!((rounds.next, next), (now + ROUNDS[0], now + ROUNDS[0]));
        for pause in ROUNDS {
            assert_eq!(rounds.next - now, pause);
            assert_eq!(rounds.due(), Some(BTreeSet::from([tenant("one"), tenant("two")])));
            now = rounds.next;
            rounds.done(now);
        }
        assert_eq!((rounds.next, rounds.due()), (now + EVERY, None));
        assert_eq!(rounds, Rounds::new(now));
    }
}
