//! Trying again until a deadline.

use std::time::Duration;

use tokio::time::Instant;

use crate::failure::Failure;
use crate::limits::Backoff;

/// The status which says that nothing of a message has been done, so that it may be handed over again.
pub(super) const NOTHING_DONE: u16 = 503;

/// An attempt with less time than this would only replace the reason for the failure by "not in time".
const WORTH_TRYING: Duration = Duration::from_millis(100);

/// Attempts at the same thing, with growing pauses between them.
pub(crate) struct Attempts {
    deadline: Instant,
    backoff: Backoff,
}

impl Attempts {
    pub(crate) fn new(deadline: Instant) -> Self {
        Self { deadline, backoff: Backoff::new() }
    }

    /// Waits before the next attempt.
    ///
    /// # Errors
    /// The failure itself, when it is final or there is no time left.
    pub(crate) async fn after(&mut self, failure: Failure) -> Result<(), Failure> {
        let wait = self.backoff.next();
        if !failure.passing || left(self.deadline) <= wait + WORTH_TRYING {
            return Err(failure);
        }
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// The outcome when it is the last one. When it is certain that nothing has been done, waits before the next attempt and returns
    /// none, unless there is no time left.
    pub(crate) async fn while_nothing_is_done<T>(
        &mut self,
        outcome: Result<T, Failure>,
    ) -> Option<Result<T, Failure>> {
        match outcome {
            Err(failure) if failure.status == NOTHING_DONE => self.after(failure).await.err().map(Err),
            last => Some(last),
        }
    }
}

pub(super) fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// Ends an attempt that has no time limit of its own at the deadline.
pub(super) async fn in_time<T>(
    deadline: Instant,
    attempt: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    match tokio::time::timeout_at(deadline, attempt).await {
        Ok(done) => done,
        Err(_) => Err(Failure::passing(504, "the deadline passed before the message could be delivered")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_refused_is_not_tried_again() {
        let mut attempts = Attempts::new(Instant::now() + Duration::from_secs(10));
        assert!(attempts.after(Failure::refused(503, "")).await.is_err());
        assert!(attempts.after(Failure::passing(504, "")).await.is_ok());
    }

    #[tokio::test]
    async fn attempts_end_before_the_deadline_with_the_last_failure() {
        let deadline = Instant::now() + Duration::from_millis(600);
        let mut attempts = Attempts::new(deadline);
        let mut count = 0;
        let last = loop {
            match attempts.after(Failure::passing(503, "again")).await {
                Ok(()) => count += 1,
                Err(last) => break last,
            }
        };
        assert_eq!((count, last.reason.as_ref()), (2, "again"));
        assert!(Instant::now() < deadline);
    }
}
