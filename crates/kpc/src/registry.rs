//! Which extensions there are.
//!
//! Extension instances announce themselves in a NATS key-value bucket; the gateway watches it, so a new extension needs
//! neither configuration nor a restart here. What was last known stays known while NATS is away, and an extension whose
//! process has died stays known too: messages for it are answered with 503, not 404.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::kv::{self, Operation};
use extension::Registration;
use futures::StreamExt as _;
use ids::InstanceName;
use parking_lot::RwLock;
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use crate::limits::Backoff;

/// How often the whole bucket is read again, in case a change was missed.
const READ_AGAIN: Duration = Duration::from_secs(60);

/// What is known of an extension.
pub(crate) enum Known {
    Extension(Arc<Registration>),
    /// No instance of that name has announced itself.
    Unknown,
    /// The bucket has not been read yet, so nothing can be said.
    NotYet,
}

/// The extensions that have announced themselves.
#[derive(Default)]
pub(crate) struct Registry {
    extensions: RwLock<Option<HashMap<InstanceName, Arc<Registration>>>>,
    again: Notify,
}

impl Registry {
    /// What is known of an extension instance.
    pub(crate) fn look_up(&self, name: &InstanceName) -> Known {
        match &*self.extensions.read() {
            None => Known::NotYet,
            Some(extensions) => extensions.get(name).cloned().map_or(Known::Unknown, Known::Extension),
        }
    }

    /// Reads the bucket anew: changes may have been missed.
    pub(crate) fn read_again(&self) {
        self.again.notify_one();
    }

    fn put(&self, key: &str, value: &[u8]) {
        if let Some((name, registration)) = read(key, value)
            && let Some(extensions) = &mut *self.extensions.write()
        {
            extensions.insert(name, registration);
        }
    }

    fn remove(&self, key: &str) {
        if let Some(extensions) = &mut *self.extensions.write() {
            extensions.remove(key);
        }
    }

    /// Follows the bucket until `stopping` is cancelled; whatever fails is tried again.
    pub(crate) async fn follow(&self, client: async_nats::Client, stopping: CancellationToken) {
        let mut backoff = Backoff::new();
        loop {
            let followed = tokio::select! {
                followed = self.follow_once(&client, &mut backoff) => followed,
                () = stopping.cancelled() => return,
            };
            if let Err(error) = followed {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "the register of extensions cannot be read; trying again"
                );
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.next()) => {}
                () = stopping.cancelled() => return,
            }
        }
    }

    /// Follows the bucket until that fails, or until it shall be read anew.
    async fn follow_once(&self, client: &async_nats::Client, backoff: &mut Backoff) -> anyhow::Result<()> {
        let bucket = extension::bucket(client).await.context("opening the bucket (is JetStream on?)")?;
        // The watch stands before the bucket is read, so that no change falls between the two.
        let mut changes = bucket.watch_all().await.context("watching the bucket")?;
        self.read_all(&bucket).await?;
        *backoff = Backoff::new();
        let mut again = interval_at(Instant::now() + READ_AGAIN, READ_AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = again.tick() => self.read_all(&bucket).await?,
                () = self.again.notified() => return Ok(()),
                change = changes.next() => {
                    let entry = change.context("the watch has ended")?.context("reading a change")?;
                    match entry.operation {
                        Operation::Put => self.put(&entry.key, &entry.value),
                        Operation::Delete | Operation::Purge => self.remove(&entry.key),
                    }
                }
            }
        }
    }

    async fn read_all(&self, bucket: &kv::Store) -> anyhow::Result<()> {
        let mut extensions = HashMap::new();
        let mut keys = bucket.keys().await.context("listing the bucket")?;
        while let Some(key) = keys.next().await {
            let key = key.context("listing the bucket")?;
            let value = bucket.get(&key).await.with_context(|| format!("reading {key}"))?;
            extensions.extend(value.and_then(|value| read(&key, &value)));
        }
        *self.extensions.write() = Some(extensions);
        Ok(())
    }
}

fn read(key: &str, value: &[u8]) -> Option<(InstanceName, Arc<Registration>)> {
    let name = InstanceName::parse(key).ok()?;
    match serde_json::from_slice(value) {
        Ok(registration) => Some((name, Arc::new(registration))),
        Err(error) => {
            tracing::warn!(extension = key, %error, "an extension's registration cannot be read; it is ignored");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registration(endpoint_aware: bool) -> Vec<u8> {
        let json = serde_json::json!({
            "name": "x", "version": "1", "protocol": "esp", "endpointAware": endpoint_aware, "maxPayloadBytes": 10,
        });
        serde_json::to_vec(&json).unwrap()
    }

    #[test]
    fn nothing_is_unknown_before_the_bucket_has_been_read() {
        let registry = Registry::default();
        let dcx = InstanceName::parse("dcx").unwrap();
        registry.put("dcx", &registration(true));
        assert!(matches!(registry.look_up(&dcx), Known::NotYet));
        *registry.extensions.write() = Some(HashMap::new());
        assert!(matches!(registry.look_up(&dcx), Known::Unknown));
        registry.put("dcx", &registration(false));
        assert!(matches!(registry.look_up(&dcx), Known::Extension(found) if !found.endpoint_aware));
        registry.remove("dcx");
        assert!(matches!(registry.look_up(&dcx), Known::Unknown));
    }

    #[test]
    fn a_registration_that_cannot_be_read_is_ignored() {
        assert!(read("a.b", &registration(true)).is_none());
        assert!(read("dcx", b"{}").is_none());
    }
}
