//! One MQTT connection, as all threads see it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ids::{AppVersionName, EndpointId, EndpointToken, InstanceName, TenantId};
use kp1::TopicFilter;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::clients::Client;
use crate::config::Limits;
use crate::identity::Identity;
use crate::limits::Rate;
use crate::metrics::Metrics;
use crate::outbox::{CloseReason, Full, Item, Outbox, Outgoing, Qos, Wake, Worker};
use crate::peer::Transport;
use crate::topic_turns::TopicTurns;

/// Tokens of one endpoint that a connection uses at once: after a change of tokens two, and more is no
/// device.
const TOKENS_MAX: usize = 4;
/// Tenants that one connection without credentials speaks for: a gateway of devices has one, a test bench a
/// few.
const TENANTS_MAX: usize = 16;
/// In what time unknown tokens are counted.
const UNKNOWN_PERIOD: Duration = Duration::from_secs(60);

/// The number of a connection, never used twice: a late clean-up cannot hit a newer connection of the same
/// client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ConnectionId(pub(crate) u64);

/// A live connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    pub(crate) client_id: Arc<str>,
    /// Whether the client chose its id itself; ids that we gave are unique, so nobody takes those over.
    pub(crate) named: bool,
    /// What there is one connection for: the client id, of an authenticated client together with its tenant.
    /// So nobody takes over another tenant's client, nor one that has shown credentials without showing any.
    pub(crate) session: Arc<str>,
    pub(crate) since: Instant,
    /// The same moment in ms since the epoch, to compare with other replicas.
    pub(crate) since_ms: i64,
    /// How many messages it may send.
    pub(crate) rate: Rate,
    /// How many of its messages may be worked on at once.
    pub(crate) in_flight: Semaphore,
    /// The order of its messages on topics of extensions.
    pub(crate) topic_turns: Arc<TopicTurns>,
    pub(crate) address: Option<IpAddr>,
    pub(crate) transport: Transport,
    /// Who the client has shown to be; none when it has shown nothing.
    pub(crate) client: Option<Box<Client>>,
    /// The tenants whose demands it was found to meet.
    admitted: RwLock<Vec<TenantId>>,
    worker: Arc<Worker>,
    limits: Arc<Limits>,
    pub(crate) metrics: Arc<Metrics>,
    closing: AtomicBool,
    /// Closed for what the client has done or may no longer do.
    distrusted: AtomicBool,
    outbox: Mutex<Outbox>,
    pub(crate) state: Mutex<State>,
}

/// What may change of a connection.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) ended: bool,
    pub(crate) endpoints: HashMap<EndpointId, Vec<Attachment>>,
    pub(crate) subscriptions: Vec<Subscription>,
    /// Messages of extensions on topics that the client is about to be granted: they may not come before its
    /// SUBACK.
    pub(crate) held: Vec<(InstanceName, Outgoing)>,
    /// How many subscriptions extensions were asked about.
    asked: u64,
    /// Since when unknown tokens are counted, and how many there were.
    unknown_tokens: Option<(Instant, u32)>,
}

/// What a new connection is made of.
pub(crate) struct Newcomer {
    /// None when the client left the choice to us.
    pub(crate) client_id: Option<Arc<str>>,
    pub(crate) address: Option<IpAddr>,
    pub(crate) transport: Transport,
    pub(crate) client: Option<Box<Client>>,
    pub(crate) worker: Arc<Worker>,
}

/// One token with which a connection speaks for an endpoint.
#[derive(Debug, Clone)]
pub(crate) struct Attachment {
    pub(crate) app_version: AppVersionName,
    pub(crate) identity: Arc<Identity>,
}

/// A granted topic filter, or one of an extension that is being asked.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) filter: TopicFilter,
    granted: Qos,
    /// The extension that serves the topics; none: topics of 1/KP.
    pub(crate) served_by: Option<InstanceName>,
    /// Tells it from earlier ones with the same filter.
    number: Asked,
    /// How many SUBSCRIBE packets with this filter wait for the extension's answer.
    asking: u32,
    /// Whether the client has been told that it is granted, or is told before anything else.
    is_open: bool,
}

/// Which subscription of a connection an extension is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asked(u64);

/// Why something was not added to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Rejected {
    #[error("the connection has ended")]
    Ended,
    #[error(
        "a connection may speak for at most {0} endpoints (kpc.limits.endpoints_per_connection); open another one"
    )]
    TooManyEndpoints(usize),
    #[error("a connection may have at most {0} subscriptions (kpc.limits.subscriptions_per_connection)")]
    TooManySubscriptions(usize),
    #[error(
        "a connection without credentials may speak for endpoints of at most {0} tenants; open another one"
    )]
    TooManyTenants(usize),
}

impl Connection {
    pub(crate) fn new(number: u64, newcomer: Newcomer, limits: Arc<Limits>, metrics: Arc<Metrics>) -> Self {
        let named = newcomer.client_id.is_some();
        let client_id =
            newcomer.client_id.unwrap_or_else(|| format!("{number:x}-{:016x}", rand::random::<u64>()).into());
        let tenant = newcomer.client.as_ref().map(|client| &client.tenant);
        Self {
            id: ConnectionId(number),
            // No client id holds a zero.
            session: tenant
                .map_or_else(|| client_id.clone(), |tenant| format!("{tenant}\0{client_id}").into()),
            admitted: RwLock::new(tenant.into_iter().cloned().collect()),
            client_id,
            named,
            since: Instant::now(),
            since_ms: runtime::now_ms(),
            rate: Rate::new(limits.messages_per_second_per_connection),
            in_flight: Semaphore::new(limits.in_flight_per_connection.into()),
            topic_turns: Arc::default(),
            address: newcomer.address,
            transport: newcomer.transport,
            client: newcomer.client,
            worker: newcomer.worker,
            limits,
            metrics,
            closing: AtomicBool::new(false),
            distrusted: AtomicBool::new(false),
            outbox: Mutex::default(),
            state: Mutex::default(),
        }
    }

    /// Puts a message into the outbox; returns whether it was taken. Closes the connection when the client
    /// does not read.
    pub(crate) fn send(&self, message: Outgoing) -> bool {
        let pushed = self.outbox.lock().push(message, self.limits.outbox_messages, self.limits.outbox_bytes);
        match pushed {
            Ok(true) => self.worker.wake(Wake::Send(self.id)),
            Ok(false) => {}
            Err(Full::Closed) => return false,
            Err(Full::Overflow) => {
                self.close_slow();
                return false;
            }
        }
        true
    }

    /// Closes the connection of a client that does not read.
    pub(crate) fn close_slow(&self) {
        self.metrics.slow_client();
        tracing::info!(client_id = &*self.client_id, "closing a connection: its client does not read");
        self.close(CloseReason::SlowReader);
    }

    /// Closes the connection after what waits for the client has been written.
    pub(crate) fn finish(&self, reason: CloseReason) {
        self.note(reason);
        if self.outbox.lock().finish(reason) {
            self.worker.wake(Wake::Send(self.id));
        }
    }

    /// Closes the connection now.
    pub(crate) fn close(&self, reason: CloseReason) {
        self.note(reason);
        if !self.closing.swap(true, Ordering::AcqRel) {
            self.outbox.lock().close();
            self.worker.wake(Wake::Close(self.id, reason));
        }
    }

    fn note(&self, reason: CloseReason) {
        if reason.is_distrust() {
            self.distrusted.store(true, Ordering::Release);
        }
    }

    /// Whether the client may still have its say: its will is to be sent.
    pub(crate) fn is_trusted(&self) -> bool {
        !self.distrusted.load(Ordering::Acquire)
    }

    /// Whether it was found to meet the tenant's demands.
    pub(crate) fn is_admitted(&self, tenant: &TenantId) -> bool {
        self.admitted.read().contains(tenant)
    }

    /// It meets the tenant's demands.
    pub(crate) fn admit(&self, tenant: &TenantId) -> Result<(), Rejected> {
        let mut admitted = self.admitted.write();
        if admitted.contains(tenant) {
            return Ok(());
        }
        if admitted.len() >= TENANTS_MAX {
            return Err(Rejected::TooManyTenants(TENANTS_MAX));
        }
        admitted.push(tenant.clone());
        Ok(())
    }

    /// The tenants whose demands it was found to meet.
    pub(crate) fn tenants(&self) -> Vec<TenantId> {
        self.admitted.read().clone()
    }

    /// Whether it speaks for an endpoint with this token.
    pub(crate) fn uses(&self, token: &EndpointToken) -> bool {
        let state = self.state.lock();
        state.endpoints.values().flatten().any(|attachment| attachment.identity.token == *token)
    }

    /// Counts an unknown token; returns how many there were within the period.
    pub(crate) fn unknown_tokens(&self, now: Instant) -> u32 {
        let unknown = &mut self.state.lock().unknown_tokens;
        let (since, count) = unknown
            .filter(|(since, _)| now.saturating_duration_since(*since) < UNKNOWN_PERIOD)
            .unwrap_or((now, 0));
        *unknown = Some((since, count.saturating_add(1)));
        count.saturating_add(1)
    }

    /// The next item to send, for the connection's owner.
    pub(crate) fn next_item(&self) -> Option<Item> {
        self.outbox.lock().next()
    }

    /// Drops what waits to be sent: the client has gone.
    pub(crate) fn discard(&self) {
        self.outbox.lock().close();
    }

    /// Subscribes; a filter that is subscribed already gets the new quality of service.
    pub(crate) fn subscribe(&self, filter: TopicFilter, granted: Qos) -> Result<(), Rejected> {
        let mut state = self.state.lock();
        if let Some(existing) = state.subscriptions.iter_mut().find(|existing| existing.filter == filter) {
            existing.granted = granted;
            return Ok(());
        }
        if state.subscriptions.len() >= self.limits.subscriptions_per_connection {
            return Err(Rejected::TooManySubscriptions(self.limits.subscriptions_per_connection));
        }
        state.subscriptions.push(Subscription {
            filter,
            granted,
            served_by: None,
            number: Asked(0),
            asking: 0,
            is_open: true,
        });
        Ok(())
    }

    /// Notes that an extension is asked about a filter. What is sent to its topics is held back from now on.
    pub(crate) fn ask(
        &self,
        state: &mut State,
        filter: &TopicFilter,
        served_by: &InstanceName,
    ) -> Result<Asked, Rejected> {
        if state.ended {
            return Err(Rejected::Ended);
        }
        if let Some(existing) = state.subscriptions.iter_mut().find(|existing| existing.filter == *filter) {
            existing.asking += 1;
            return Ok(existing.number);
        }
        if state.subscriptions.len() >= self.limits.subscriptions_per_connection {
            return Err(Rejected::TooManySubscriptions(self.limits.subscriptions_per_connection));
        }
        let (filter, granted) = (filter.clone(), Qos::AtMostOnce);
        let served_by = Some(served_by.clone());
        state.asked += 1;
        let number = Asked(state.asked);
        let (asking, is_open) = (1, false);
        state.subscriptions.push(Subscription { filter, granted, served_by, number, asking, is_open });
        Ok(number)
    }

    /// Sends what was held back for filters that are granted now, and drops what nobody waits for any more.
    fn release(&self, state: &mut State) {
        for (served_by, message) in std::mem::take(&mut state.held) {
            match state.standing(&message.topic, &served_by) {
                Standing::Open(granted) => {
                    self.send(message.limited(granted));
                }
                Standing::Asking => state.held.push((served_by, message)),
                Standing::None => {}
            }
        }
    }

    /// Notes what an extension has answered: the quality of service when it grants the filter, or nothing.
    /// Returns the subscription when it is none any more.
    pub(crate) fn answer(
        &self,
        state: &mut State,
        asked: Asked,
        granted: Option<Qos>,
    ) -> Option<Subscription> {
        let is_it = |existing: &Subscription| existing.served_by.is_some() && existing.number == asked;
        let at = state.subscriptions.iter().position(is_it)?;
        let subscription = &mut state.subscriptions[at];
        subscription.asking = subscription.asking.saturating_sub(1);
        subscription.is_open = granted.is_some();
        subscription.granted = granted.unwrap_or(subscription.granted);
        let is_over = granted.is_none() && subscription.asking == 0;
        let removed = is_over.then(|| state.subscriptions.swap_remove(at));
        self.release(state);
        removed
    }

    /// Sends a message on a topic of an extension, if the client subscribed to it there, or when it is
    /// granted. Returns whether it was taken.
    pub(crate) fn deliver(&self, served_by: &InstanceName, message: Outgoing) -> bool {
        // Sent under the lock, or it might overtake what is being released.
        let mut state = self.state.lock();
        match state.standing(&message.topic, served_by) {
            Standing::Open(granted) => self.send(message.limited(granted)),
            Standing::Asking => {
                let bytes: usize = state.held.iter().map(|(_, held)| held.size()).sum();
                let fits = state.held.len() < self.limits.outbox_messages
                    && bytes.saturating_add(message.size()) <= self.limits.outbox_bytes;
                if fits {
                    state.held.push((served_by.clone(), message));
                }
                fits
            }
            Standing::None => false,
        }
    }

    /// Ends a subscription that another extension serves by now; returns it if there was one.
    pub(crate) fn leave_other(
        &self,
        state: &mut State,
        filter: &TopicFilter,
        served_by: &InstanceName,
    ) -> Option<Subscription> {
        let is_other =
            |one: &Subscription| one.filter == *filter && one.served_by.as_ref() != Some(served_by);
        let at = state.subscriptions.iter().position(is_other)?;
        Some(state.subscriptions.swap_remove(at))
    }

    /// Unsubscribes; returns the subscription if there was one.
    pub(crate) fn unsubscribe(&self, state: &mut State, text: &str) -> Option<Subscription> {
        let at = state.subscriptions.iter().position(|existing| existing.filter.as_str() == text)?;
        let removed = state.subscriptions.swap_remove(at);
        self.release(state);
        Some(removed)
    }

    /// The tokens with which it speaks for an endpoint; the last used comes last.
    pub(crate) fn attachments(&self, endpoint: &EndpointId) -> Vec<Attachment> {
        self.state.lock().endpoints.get(endpoint).cloned().unwrap_or_default()
    }

    /// The quality of service with which it subscribed to a topic of 1/KP, the best if it did so several times.
    pub(crate) fn subscribed(&self, topic: &str) -> Option<Qos> {
        let state = self.state.lock();
        let of_1kp = state.subscriptions.iter().filter(|one| one.served_by.is_none());
        of_1kp.filter(|one| one.filter.matches(topic)).map(|one| one.granted).max()
    }

    /// Whether it subscribed to anything.
    pub(crate) fn has_subscriptions(&self) -> bool {
        !self.state.lock().subscriptions.is_empty()
    }
}

/// How a client stands to a topic.
enum Standing {
    /// It subscribed, with this quality of service at best.
    Open(Qos),
    /// Whether it may subscribe is being asked.
    Asking,
    None,
}

impl State {
    /// How the client stands to a topic of an extension.
    fn standing(&self, topic: &str, served_by: &InstanceName) -> Standing {
        let served = self.subscriptions.iter().filter(|one| one.served_by.as_ref() == Some(served_by));
        let matching = served.filter(|one| one.filter.matches(topic));
        let (mut open, mut is_asking) = (None, false);
        for one in matching {
            if one.is_open {
                open = open.max(Some(one.granted));
            } else {
                is_asking = true;
            }
        }
        match open {
            Some(granted) => Standing::Open(granted),
            None if is_asking => Standing::Asking,
            None => Standing::None,
        }
    }
}

/// Notes which of an endpoint's tokens the connection used last.
pub(crate) fn use_again(
    attachments: &mut Vec<Attachment>,
    app_version: &AppVersionName,
    identity: &Arc<Identity>,
) {
    let same = |attachment: &Attachment| {
        attachment.app_version == *app_version && attachment.identity.token == identity.token
    };
    if attachments.last().is_some_and(same) {
        return;
    }
    attachments.retain(|attachment| !same(attachment));
    if attachments.len() >= TOKENS_MAX {
        attachments.remove(0);
    }
    attachments.push(Attachment { app_version: app_version.clone(), identity: identity.clone() });
}

impl PartialEq for Connection {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}
