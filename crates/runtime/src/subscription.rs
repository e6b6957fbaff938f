//! A subscription that ends in an orderly way.

use async_nats::{Message, Subscriber};
use futures::StreamExt as _;
use tokio_util::sync::CancellationToken;

/// Messages of one subject. When the service stops it asks the server for no more, hands out what has already come,
/// and then ends.
pub struct Subscription {
    subscriber: Subscriber,
    stopping: CancellationToken,
    draining: bool,
}

impl Subscription {
    pub(crate) fn new(subscriber: Subscriber, stopping: CancellationToken) -> Self {
        Self { subscriber, stopping, draining: false }
    }

    /// The next message, or `None` once the service stops and all has been handed out.
    pub async fn next(&mut self) -> Option<Message> {
        if !self.draining {
            let stopping = self.stopping.clone();
            tokio::select! {
                message = self.subscriber.next() => return message,
                () = stopping.cancelled() => {
                    self.draining = true;
                    self.subscriber.drain().await.ok()?;
                }
            }
        }
        self.subscriber.next().await
    }
}
