//! Tells all services what became unusable.
//!
//! An event is written down in the transaction that it tells of, sent after it, and struck out once the NATS server has taken it
//! in. Whoever dies in between leaves it to the next one: a revoked client is never left connected for want of an event. It may
//! be sent twice.

use std::sync::Arc;
use std::time::Duration;

use async_nats::connection::State;
use bytes::Bytes;
use ism::authorities::{AUTHORITIES_CHANGED, AuthoritiesChangedEvent};
use ism::cap::{BASIC_REVOKED, CERTIFICATE_REVOKED, ClientCredentialsRevokedEvent};
use ism::{Record as _, subject::Event};
use runtime::Context;

use crate::error::Error;
use crate::metrics::Metrics;
use crate::store::{Announcement, Store, Topic};

/// Events that are sent between two strikes.
const BATCH: i64 = 500;
/// How often to look for events that others left.
const EVERY: Duration = Duration::from_millis(500);
/// How often to tell that events cannot be sent.
const TELL_EVERY: u32 = 20;
/// How long the sending of a batch may take.
const SEND_TIMEOUT: Duration = Duration::from_secs(2);

pub(crate) struct Announcer {
    context: Context,
    store: Store,
    metrics: Arc<Metrics>,
}

/// Why events were not sent.
#[derive(Debug, thiserror::Error)]
enum Unsent {
    #[error("there is no connection to NATS")]
    Disconnected,
    #[error("NATS did not take them in time")]
    Timeout,
    #[error("NATS did not take them: {0}")]
    Nats(String),
    #[error(transparent)]
    Store(#[from] Error),
}

impl Announcer {
    pub(crate) fn new(context: Context, store: Store, metrics: Arc<Metrics>) -> Self {
        Self { context, store, metrics }
    }

    /// Sends what was just written down. What cannot be sent now is sent later.
    pub(crate) async fn announce(&self) {
        if let Err(error) = self.send_batch().await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "events wait to be sent: gateways keep clients connected until then"
            );
        }
    }

    /// Sends what was left, for as long as the service runs.
    pub(crate) async fn follow(self: Arc<Self>) -> anyhow::Result<()> {
        let stopping = self.context.stopping();
        let mut failures: u32 = 0;
        loop {
            match self.send_batch().await {
                Ok(true) => continue,
                Ok(false) => failures = 0,
                Err(error) => {
                    if failures.is_multiple_of(TELL_EVERY) {
                        tracing::warn!(error = &error as &dyn std::error::Error, "events wait to be sent");
                    }
                    failures = failures.saturating_add(1);
                }
            }
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                () = stopping.cancelled() => return Ok(()),
            }
        }
    }

    /// Whether more may wait.
    async fn send_batch(&self) -> Result<bool, Unsent> {
        let batch = self.store.announcements(BATCH).await?;
        let count = batch.announcements.len();
        if count == 0 {
            return Ok(false);
        }
        // The client would keep them for later, and the next attempt would add them again.
        if self.context.nats().connection_state() != State::Connected {
            return Err(Unsent::Disconnected);
        }
        let sending = self.send(&batch.announcements);
        tokio::time::timeout(SEND_TIMEOUT, sending).await.map_err(|_| Unsent::Timeout)??;
        batch.done().await?;
        self.metrics.announced(count);
        Ok(i64::try_from(count).unwrap_or(BATCH) >= BATCH)
    }

    async fn send(&self, announcements: &[Announcement]) -> Result<(), Unsent> {
        let failed = |error: String| Unsent::Nats(error);
        for announcement in announcements {
            let (event, payload) = self.event(announcement);
            let subject = event.of(self.context.instance());
            let published = self.context.nats().publish(subject, payload).await;
            published.map_err(|error| failed(error.to_string()))?;
        }
        self.context.published(SEND_TIMEOUT).await.map_err(|error| failed(error.to_string()))
    }

    fn event(&self, announcement: &Announcement) -> (Event, Bytes) {
        let Announcement { tenant_id, credentials_id, correlation_id, .. } = announcement.clone();
        let originator_replica_id = self.context.replica().to_string();
        let (timestamp, timeout) = (runtime::now_ms(), 0);
        let revoked = match announcement.topic {
            Topic::Basic => BASIC_REVOKED,
            Topic::Certificate => CERTIFICATE_REVOKED,
            Topic::Authorities => {
                let event = AuthoritiesChangedEvent {
                    correlation_id,
                    timestamp,
                    timeout,
                    tenant_id,
                    originator_replica_id,
                };
                return (AUTHORITIES_CHANGED, event.encode());
            }
        };
        let credentials_id = credentials_id.unwrap_or_default().to_string();
        let event = ClientCredentialsRevokedEvent {
            correlation_id,
            timestamp,
            timeout,
            tenant_id,
            credentials_id,
            originator_replica_id,
        };
        (revoked, event.encode())
    }
}
