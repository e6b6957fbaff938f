//! Storing: messages gather while the last commit runs, and the next commit takes them all.
//!
//! One flush to disk serves thousands of messages under load, and a message that comes alone waits only for its own.

mod commit;
mod failure;
mod insert;
mod rows;

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use ids::EndpointId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

pub(crate) use commit::Committer;

use crate::work::Work;

/// What a point takes in memory beside the text that it came from, roughly.
const POINT_BYTES: usize = 128;

/// The way into the writers: bounded in messages and in bytes. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Queue {
    writers: Arc<[mpsc::Sender<Work>]>,
    bytes: Arc<Semaphore>,
}

/// The queue cannot take a message now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "too many messages wait to be stored (epts.queue_messages_max, epts.queue_bytes_max); the database is slower than the devices, try again later"
)]
pub(crate) struct QueueFull;

impl Queue {
    pub(crate) fn new(writers: Vec<mpsc::Sender<Work>>, bytes_max: usize) -> Self {
        Self {
            writers: writers.into(),
            bytes: Arc::new(Semaphore::new(bytes_max.min(Semaphore::MAX_PERMITS))),
        }
    }

    /// Takes a message's share of the queue before anything is made of it.
    pub(crate) fn share(
        &self,
        payload_bytes: usize,
        points: usize,
    ) -> Result<OwnedSemaphorePermit, QueueFull> {
        let bytes = payload_bytes.saturating_add(points.saturating_mul(POINT_BYTES));
        let bytes = u32::try_from(bytes).map_err(|_| QueueFull)?;
        self.bytes.clone().try_acquire_many_owned(bytes).map_err(|_| QueueFull)
    }

    /// Hands a message to the writer of its endpoint, so that an endpoint's messages are stored in their order.
    /// A message that finds no room comes back.
    pub(crate) fn put(&self, work: Work) -> Result<(), Box<Work>> {
        let Some(writer) = self.writers.get(index(&work.endpoint_id, self.writers.len())) else {
            return Err(Box::new(work));
        };
        writer.try_send(work).map_err(|error| Box::new(error.into_inner()))
    }
}

fn index(endpoint_id: &EndpointId, writers: usize) -> usize {
    if writers <= 1 {
        return 0;
    }
    let mut hasher = DefaultHasher::new();
    endpoint_id.hash(&mut hasher);
    let writers = u64::try_from(writers).unwrap_or(1);
    usize::try_from(hasher.finish() % writers).unwrap_or(0)
}
