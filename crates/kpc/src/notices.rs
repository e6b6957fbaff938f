//! Messages that the gateway sends without waiting: events, forwarded responses, delivery reports.
//!
//! Whoever sends one holds up a device, so none may wait for NATS. While NATS is away a bounded number is kept; what
//! comes above it is dropped and counted, and what depends on it is told anew after the reconnection (see `sharing`).

use std::sync::Arc;

use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::metrics::Metrics;

/// Notices that wait while NATS is away.
const WAITING_MAX: usize = 8_192;

/// A message on its way out.
#[derive(Debug)]
pub(crate) struct Notice {
    pub(crate) subject: String,
    pub(crate) headers: Option<HeaderMap>,
    pub(crate) payload: Bytes,
}

/// Sends notices. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Notices {
    sender: mpsc::Sender<Notice>,
    metrics: Arc<Metrics>,
}

impl Notices {
    /// The sender, and the task that publishes until `stopped` is cancelled and all notices have left.
    pub(crate) fn new(
        client: Client,
        metrics: Arc<Metrics>,
        stopped: tokio_util::sync::CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (sender, mut receiver) = mpsc::channel::<Notice>(WAITING_MAX);
        let publish = async move {
            loop {
                let notice = tokio::select! {
                    biased;
                    notice = receiver.recv() => notice,
                    () = stopped.cancelled() => None,
                };
                let Some(Notice { subject, headers, payload }) = notice else { return };
                let sent = match headers {
                    Some(headers) => client.publish_with_headers(subject, headers, payload).await,
                    None => client.publish(subject, payload).await,
                };
                if let Err(error) = sent {
                    tracing::warn!(%error, "a notice could not be published");
                }
            }
        };
        (Self { sender, metrics }, publish)
    }

    /// Sends a notice, unless too many wait already.
    pub(crate) fn send(&self, notice: Notice) {
        if self.sender.try_send(notice).is_err() {
            self.metrics.notice_dropped();
        }
    }

    /// Sends a message without headers.
    pub(crate) fn publish(&self, subject: String, payload: Bytes) {
        self.send(Notice { subject, headers: None, payload });
    }
}
