//! How many bytes of payloads the process keeps at once.
//!
//! Every connection has limits of its own, but their number times those limits is more than any process has. So the
//! payloads of all messages that are worked on, over MQTT and HTTP, share one number of bytes. They are counted piece by
//! piece, as they come: a client that only announces a large message takes nothing from the others.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::failure::Failure;

/// The bytes that payloads may take. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Memory {
    free: Arc<Semaphore>,
}

/// Bytes that are taken; given back when dropped.
#[derive(Debug, Default)]
pub(crate) struct Taken(Option<OwnedSemaphorePermit>);

impl Memory {
    pub(crate) fn new(bytes: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(bytes.min(Semaphore::MAX_PERMITS))) }
    }

    /// Takes so many bytes, waiting for them until the deadline.
    ///
    /// # Errors
    /// A passing 503 when others hold them until then.
    pub(crate) async fn wait(&self, bytes: usize, deadline: Instant) -> Result<Taken, Failure> {
        let bytes = u32::try_from(bytes).map_err(|_| full())?;
        match timeout_at(deadline, self.free.clone().acquire_many_owned(bytes)).await {
            Ok(Ok(permit)) => Ok(Taken(Some(permit))),
            Ok(Err(_)) | Err(_) => Err(full()),
        }
    }

    /// Takes so many bytes now.
    ///
    /// # Errors
    /// A passing 503 when others hold them.
    pub(crate) fn take(&self, bytes: usize) -> Result<Taken, Failure> {
        let bytes = u32::try_from(bytes).map_err(|_| full())?;
        self.free.clone().try_acquire_many_owned(bytes).map(|permit| Taken(Some(permit))).map_err(|_| full())
    }
}

impl Taken {
    /// Holds what the other one holds too.
    pub(crate) fn add(&mut self, other: Self) {
        match (&mut self.0, other.0) {
            (Some(mine), Some(other)) => mine.merge(other),
            (mine @ None, other) => *mine = other,
            (Some(_), None) => {}
        }
    }
}

fn full() -> Failure {
    let reason =
        "the gateway works on as many bytes as it may keep (kpc.limits.in_flight_bytes); try again later";
    Failure::passing(503, reason)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn what_is_taken_is_missing_until_it_is_given_back() {
        let memory = Memory::new(10);
        let mut taken = memory.take(6).unwrap();
        let failure = memory.take(5).unwrap_err();
        assert!(failure.status == 503 && failure.passing);
        assert!(failure.reason.contains("(kpc.limits.in_flight_bytes)"));
        taken.add(memory.take(4).unwrap());
        let soon = Instant::now() + Duration::from_millis(10);
        assert_eq!(memory.wait(1, soon).await.unwrap_err().status, 503);
        let later = Instant::now() + Duration::from_secs(20);
        let (waited, ()) = tokio::join!(memory.wait(10, later), async { drop(taken) });
        assert!(waited.is_ok() && memory.take(1).is_err());
    }
}
