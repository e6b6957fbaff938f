//! What the sender of a push to all replicas is told before anything of it is written: that somebody here takes it.
//!
//! Of silence such a sender concludes that nobody has the client, so nothing may be written while it is not certain that
//! the NATS server has the announcement: this process, or its connection, may end at any moment. Announcements that gather
//! while the server is asked about earlier ones are asked about together.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use runtime::Context;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Announcements that wait; the pushes of more are not begun.
const WAITING_MAX: usize = 8_192;
/// Announcements that the server is asked about together.
const TOGETHER_MAX: usize = 1_024;
/// How long after it was heard a message may be written: its sender waits somewhat longer for replicas that take it.
const PATIENCE: Duration = Duration::from_secs(1);

/// A report that goes before its message.
pub(crate) struct Announcement {
    pub(crate) subject: String,
    pub(crate) report: Bytes,
    /// Writes the message; dropped when it must not be written.
    pub(crate) write: Box<dyn FnOnce() + Send>,
}

/// The way to those who announce. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Announcements(mpsc::Sender<(Instant, Announcement)>);

impl Announcements {
    /// The way, and the task at its end, which ends with the last clone of it.
    pub(crate) fn new(context: Context) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        (Self(sender), announce(receiver, move |reports| tell(context.clone(), reports)))
    }

    /// Has a message announced and then written. One that has no room is dropped, as one that could not be announced.
    pub(crate) fn begin(&self, announcement: Announcement) {
        if self.0.try_send((Instant::now(), announcement)).is_err() {
            tracing::debug!("a push was not begun: too many wait to be announced");
        }
    }
}

async fn announce<Telling: Future<Output = bool> + Send>(
    mut receiver: mpsc::Receiver<(Instant, Announcement)>,
    tell: impl Fn(Vec<(String, Bytes)>) -> Telling,
) {
    let mut together = Vec::new();
    while receiver.recv_many(&mut together, TOGETHER_MAX).await > 0 {
        let (reports, writes): (Vec<_>, Vec<_>) = together
            .drain(..)
            .map(|(heard, Announcement { subject, report, write })| ((subject, report), (heard, write)))
            .unzip();
        let is_told = tell(reports).await;
        for (heard, write) in writes {
            if is_told && heard.elapsed() < PATIENCE {
                write();
            }
        }
    }
}

/// Whether the server certainly has the reports: none was lost with a connection.
async fn tell(context: Context, reports: Vec<(String, Bytes)>) -> bool {
    let (nats, connects) = (context.nats(), || context.nats().statistics().connects.load(Ordering::Acquire));
    let before = connects();
    let telling = async {
        for (subject, report) in reports {
            if nats.publish(subject, report).await.is_err() {
                return false;
            }
        }
        context.published(PATIENCE).await.is_ok()
    };
    tokio::time::timeout(PATIENCE, telling).await.unwrap_or(false) && connects() == before
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    #[tokio::test]
    async fn nothing_is_written_that_is_not_announced() {
        let (sender, receiver) = mpsc::channel(16);
        let (all, written) = (Announcements(sender), Arc::<Mutex<Vec<&str>>>::default());
        for name in ["one", "lost", "two"] {
            let written = written.clone();
            let write = Box::new(move || written.lock().push(name));
            all.begin(Announcement { subject: name.to_owned(), report: Bytes::new(), write });
        }
        drop(all);
        let told = Mutex::new(Vec::new());
        let tell = |reports: Vec<(String, Bytes)>| {
            told.lock().extend(reports.into_iter().map(|(subject, _)| subject));
            std::future::ready(false)
        };
        announce(receiver, tell).await;
        assert_eq!(*told.lock(), ["one", "lost", "two"]);
        assert!(written.lock().is_empty());

        let (sender, receiver) = mpsc::channel(16);
        let late = Instant::now().checked_sub(PATIENCE).unwrap();
        for (heard, name) in [(Instant::now(), "told"), (late, "late")] {
            let written = written.clone();
            let write = Box::new(move || written.lock().push(name));
            let announcement = Announcement { subject: name.to_owned(), report: Bytes::new(), write };
            assert!(sender.try_send((heard, announcement)).is_ok());
        }
        drop(sender);
        announce(receiver, |_| std::future::ready(true)).await;
        assert_eq!(*written.lock(), ["told"]);
    }
}
