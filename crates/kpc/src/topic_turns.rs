//! Publications of one connection on one topic of an extension are handed over one after the other, in the order in which
//! they came: so MQTT orders them, and an extension that orders by what it has committed needs it.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::{MaybeDone, maybe_done};
use parking_lot::Mutex;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::failure::Failure;

type Acquired = Result<OwnedSemaphorePermit, AcquireError>;
type Acquiring = Pin<Box<dyn Future<Output = Acquired> + Send>>;

/// The queues of one connection, by topic. There is one only as long as somebody stands in it.
#[derive(Debug, Default)]
pub(crate) struct TopicTurns {
    queues: Mutex<HashMap<Arc<str>, Arc<Semaphore>>>,
}

/// A publication's place in the queue of its topic, until it is dropped.
pub(crate) struct Place {
    turns: Arc<TopicTurns>,
    topic: Arc<str>,
    queue: Arc<Semaphore>,
    waiting: Option<Pin<Box<MaybeDone<Acquiring>>>>,
    turn: Option<OwnedSemaphorePermit>,
}

impl TopicTurns {
    /// Takes the last place.
    pub(crate) fn queue(self: &Arc<Self>, topic: &Arc<str>) -> Place {
        let mut queues = self.queues.lock();
        let queue = queues.entry(topic.clone()).or_insert_with(|| Arc::new(Semaphore::new(1))).clone();
        // The first look takes the place; it must not be put off because the task has done much already.
        let acquiring: Acquiring = Box::pin(tokio::task::unconstrained(queue.clone().acquire_owned()));
        let mut waiting = Box::pin(maybe_done(acquiring));
        let _ = waiting.as_mut().now_or_never();
        Place { turns: self.clone(), topic: topic.clone(), queue, waiting: Some(waiting), turn: None }
    }
}

impl Place {
    /// Waits until all that came before have been answered.
    ///
    /// # Errors
    /// A passing failure when that does not happen before the deadline, or one of them could not be delivered.
    pub(crate) async fn turn(&mut self, deadline: Instant) -> Result<(), Failure> {
        if let Some(mut waiting) = self.waiting.take() {
            if tokio::time::timeout_at(deadline, waiting.as_mut()).await.is_err() {
                let reason = "earlier messages on the topic are not answered yet; send more slowly";
                return Err(Failure::passing(504, reason));
            }
            let Some(Ok(turn)) = waiting.as_mut().take_output() else {
                let reason = "an earlier message on the topic could not be delivered; send both again";
                return Err(Failure::passing(504, reason));
            };
            self.turn = Some(turn);
        }
        Ok(())
    }

    /// The message will be sent again: those behind it must not get before it.
    pub(crate) fn fail(&self) {
        self.queue.close();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        (self.waiting, self.turn) = (None, None);
        let mut queues = self.turns.queues.lock();
        let is_current = queues.get(&self.topic).is_some_and(|current| Arc::ptr_eq(current, &self.queue));
        // The map's and ours. Whoever joins does so under the lock.
        if is_current && Arc::strong_count(&self.queue) == 2 {
            queues.remove(&self.topic);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn turns_come_in_the_order_of_places_whoever_waits_first() {
        let turns = Arc::<TopicTurns>::default();
        let topic: Arc<str> = "t".into();
        let later = Instant::now() + Duration::from_secs(20);
        let [mut one, mut two, mut three] = [(); 3].map(|()| turns.queue(&topic));
        let mut other = turns.queue(&"u".into());
        other.turn(later).await.unwrap();
        one.turn(later).await.unwrap();
        assert_eq!(three.turn(Instant::now()).await.unwrap_err().status, 504);
        drop(three);
        let mut four = turns.queue(&topic);
        let waits = async {
            four.turn(later).await.unwrap();
            Instant::now()
        };
        let passes = async {
            drop(one);
            two.turn(later).await.unwrap();
            tokio::task::yield_now().await;
            let at = Instant::now();
            drop(two);
            at
        };
        let (after, before) = tokio::join!(waits, passes);
        assert!(before <= after);
        drop((four, other));
        assert!(turns.queues.lock().is_empty());
    }

    #[tokio::test]
    async fn what_stands_behind_a_failure_fails_and_what_comes_later_does_not() {
        let turns = Arc::<TopicTurns>::default();
        let topic: Arc<str> = "t".into();
        let later = Instant::now() + Duration::from_secs(20);
        let (mut one, mut two) = (turns.queue(&topic), turns.queue(&topic));
        one.turn(later).await.unwrap();
        one.fail();
        assert!(two.turn(later).await.unwrap_err().passing);
        drop((one, two));
        assert!(turns.queue(&topic).turn(later).await.is_ok());
    }
}
