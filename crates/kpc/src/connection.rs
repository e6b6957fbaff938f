//! One MQTT connection, as all threads see it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ids::{AppVersionName, EndpointId};
use kp1::TopicFilter;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::config::Limits;
use crate::identity::Identity;
use crate::limits::Rate;
use crate::metrics::Metrics;
use crate::outbox::{CloseReason, Full, Item, Outbox, Outgoing, Qos, Wake, Worker};

/// Tokens of one endpoint that a connection uses at once: after a change of tokens two, and more is no device.
const TOKENS_MAX: usize = 4;

/// The number of a connection, never used twice: a late clean-up cannot hit a newer connection of the same client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ConnectionId(pub(crate) u64);

/// A live connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    pub(crate) client_id: Arc<str>,
    /// Whether the client chose its id itself; ids that we gave are unique, so nobody takes those over.
    pub(crate) named: bool,
    pub(crate) since: Instant,
    /// The same moment in ms since the epoch, to compare with other replicas.
    pub(crate) since_ms: i64,
    /// How many messages it may send.
    pub(crate) rate: Rate,
    /// How many of its messages may be worked on at once.
    pub(crate) in_flight: Semaphore,
    pub(crate) address: Option<IpAddr>,
    worker: Arc<Worker>,
    limits: Arc<Limits>,
    pub(crate) metrics: Arc<Metrics>,
    closing: AtomicBool,
    outbox: Mutex<Outbox>,
    pub(crate) state: Mutex<State>,
}

/// What may change of a connection.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) ended: bool,
    pub(crate) endpoints: HashMap<EndpointId, Vec<Attachment>>,
    pub(crate) subscriptions: Vec<Subscription>,
}

/// What a new connection is made of.
pub(crate) struct Newcomer {
    /// None when the client left the choice to us.
    pub(crate) client_id: Option<Arc<str>>,
    pub(crate) address: Option<IpAddr>,
    pub(crate) worker: Arc<Worker>,
}

/// One token with which a connection speaks for an endpoint.
#[derive(Debug, Clone)]
pub(crate) struct Attachment {
    pub(crate) app_version: AppVersionName,
    pub(crate) identity: Arc<Identity>,
}

/// A granted topic filter.
#[derive(Debug)]
pub(crate) struct Subscription {
    filter: TopicFilter,
    granted: Qos,
}

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
}

impl Connection {
    pub(crate) fn new(number: u64, newcomer: Newcomer, limits: Arc<Limits>, metrics: Arc<Metrics>) -> Self {
        let named = newcomer.client_id.is_some();
        Self {
            id: ConnectionId(number),
            client_id: newcomer
                .client_id
                .unwrap_or_else(|| format!("{number:x}-{:016x}", rand::random::<u64>()).into()),
            named,
            since: Instant::now(),
            since_ms: runtime::now_ms(),
            rate: Rate::new(limits.messages_per_second_per_connection),
            in_flight: Semaphore::new(limits.in_flight_per_connection.into()),
            address: newcomer.address,
            worker: newcomer.worker,
            limits,
            metrics,
            closing: AtomicBool::new(false),
            outbox: Mutex::default(),
            state: Mutex::default(),
        }
    }

    /// Puts a message into the outbox; returns whether it was taken. Closes the connection when the client does not read.
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
        if self.outbox.lock().finish(reason) {
            self.worker.wake(Wake::Send(self.id));
        }
    }

    /// Closes the connection now.
    pub(crate) fn close(&self, reason: CloseReason) {
        if !self.closing.swap(true, Ordering::AcqRel) {
            self.outbox.lock().close();
            self.worker.wake(Wake::Close(self.id, reason));
        }
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
        state.subscriptions.push(Subscription { filter, granted });
        Ok(())
    }

    /// Unsubscribes; returns whether there was such a subscription.
    pub(crate) fn unsubscribe(&self, text: &str) -> bool {
        let mut state = self.state.lock();
        let before = state.subscriptions.len();
        state.subscriptions.retain(|subscription| subscription.filter.as_str() != text);
        state.subscriptions.len() < before
    }

    /// The tokens with which it speaks for an endpoint; the last used comes last.
    pub(crate) fn attachments(&self, endpoint: &EndpointId) -> Vec<Attachment> {
        self.state.lock().endpoints.get(endpoint).cloned().unwrap_or_default()
    }

    /// The quality of service with which it subscribed to a topic, the best if it did so several times.
    pub(crate) fn subscribed(&self, topic: &str) -> Option<Qos> {
        let state = self.state.lock();
        state.subscriptions.iter().filter(|one| one.filter.matches(topic)).map(|one| one.granted).max()
    }

    /// Whether it subscribed to anything.
    pub(crate) fn has_subscriptions(&self) -> bool {
        !self.state.lock().subscriptions.is_empty()
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
