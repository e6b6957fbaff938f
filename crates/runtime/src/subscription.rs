//! A subscription that ends in an orderly way.

use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, Message, Subscriber};
use futures::{FutureExt as _, StreamExt as _};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long the last messages may take to come in once the service stops.
const DRAIN_PATIENCE: Duration = Duration::from_secs(2);

/// Messages of one subject. When the service stops it asks the server for no more, hands out what has already come,
/// and then ends.
pub struct Subscription {
    subscriber: Subscriber,
    client: Client,
    stopping: CancellationToken,
    drained_by: Option<Instant>,
}

impl Subscription {
    pub(crate) fn new(subscriber: Subscriber, client: Client, stopping: CancellationToken) -> Self {
        Self { subscriber, client, stopping, drained_by: None }
    }

    /// The next message, or `None` once the service stops and all has been handed out.
    pub async fn next(&mut self) -> Option<Message> {
        let drained_by = match self.drained_by {
            Some(drained_by) => drained_by,
            None => {
                tokio::select! {
                    message = self.subscriber.next() => return message,
                    () = self.stopping.cancelled() => {}
                }
                let drained_by = Instant::now() + DRAIN_PATIENCE;
                self.drained_by = Some(drained_by);
                if self.client.connection_state() == State::Connected {
                    tokio::time::timeout_at(drained_by, self.subscriber.drain()).await.ok()?.ok()?;
                }
                drained_by
            }
        };
        if self.client.connection_state() != State::Connected {
            // No more will come, and nobody could be answered.
            return self.subscriber.next().now_or_never().flatten();
        }
        tokio::time::timeout_at(drained_by, self.subscriber.next()).await.ok().flatten()
    }
}
