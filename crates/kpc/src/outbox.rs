//! What waits to be sent to a client, and how other threads reach the worker thread that owns its connection.
//!
//! Anybody may put a message into a connection's outbox and nobody waits: when a client does not read, its outbox fills,
//! and that connection is closed. The owner sends in a task that exists only while there is something to send.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::connection::ConnectionId;

/// MQTT's quality of service.
#[expect(clippy::enum_variant_names, reason = "the names are MQTT's")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Qos {
    AtMostOnce,
    AtLeastOnce,
    ExactlyOnce,
}

/// Why the gateway closes a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CloseReason {
    /// The same client connected anew.
    TakenOver,
    /// A token that the connection used was revoked.
    Revoked,
    /// The client does not read what is sent to it.
    SlowReader,
    /// A message could not be delivered, and MQTT 3.1.1 knows no other way to say so.
    Undelivered,
    /// The gateway stops.
    Stopping,
    /// The client's credentials were revoked or suspended.
    CredentialsRevoked,
    /// The client's certificate is valid no longer.
    CertificateExpired,
    /// The tenant requires credentials that the client has not shown.
    Unauthenticated,
    /// The client showed too many unknown tokens.
    Guessing,
    /// The client must show its credentials again: while NATS was away they may have been revoked.
    Recheck,
}

impl CloseReason {
    /// Whether the client has done what it may not, or may no longer do what it did.
    pub(crate) fn is_distrust(self) -> bool {
        match self {
            Self::CredentialsRevoked | Self::CertificateExpired | Self::Unauthenticated | Self::Guessing => {
                true
            }
            // A revoked token is refused to the will too, where there is one.
            Self::Revoked
            | Self::TakenOver
            | Self::SlowReader
            | Self::Undelivered
            | Self::Stopping
            | Self::Recheck => false,
        }
    }

    /// The reason in words, where the client could do something about it.
    pub(crate) fn words(self) -> Option<&'static str> {
        match self {
            Self::TakenOver | Self::SlowReader | Self::Undelivered | Self::Stopping => None,
            Self::Revoked => Some("the endpoint token is suspended or revoked"),
            Self::CredentialsRevoked => Some("the client's credentials are suspended or revoked"),
            Self::CertificateExpired => Some("the client certificate has expired"),
            Self::Unauthenticated => Some("the tenant requires credentials on this transport"),
            Self::Guessing => Some("too many unknown endpoint tokens"),
            Self::Recheck => Some("the credentials must be checked again; connect again"),
        }
    }
}

/// A message to a client.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) topic: Arc<str>,
    pub(crate) payload: Bytes,
    pub(crate) qos: Qos,
    /// MQTT 5: for answers to a Response Topic, and for messages on topics of extensions.
    pub(crate) correlation_data: Option<Bytes>,
    /// MQTT 5: where the client shall answer.
    pub(crate) response_topic: Option<Arc<str>>,
    /// After this it is not written any more.
    pub(crate) deadline: Option<Instant>,
    /// Told what becomes of the message.
    pub(crate) receipt: Option<Arc<Receipt>>,
}

impl Outgoing {
    pub(crate) fn new(topic: Arc<str>, payload: Bytes, qos: Qos) -> Self {
        Self {
            topic,
            payload,
            qos,
            correlation_data: None,
            response_topic: None,
            deadline: None,
            receipt: None,
        }
    }

    /// The message with at most this quality of service.
    pub(crate) fn limited(self, qos: Qos) -> Self {
        Self { qos: self.qos.min(qos), ..self }
    }

    /// Whether it may be written now. From then on it counts as written.
    pub(crate) fn begin(&self, now: Instant) -> bool {
        self.deadline.is_none_or(|deadline| now < deadline)
            && self.receipt.as_ref().is_none_or(|receipt| receipt.begin())
    }

    pub(crate) fn size(&self) -> usize {
        let correlation_data = self.correlation_data.as_ref().map_or(0, Bytes::len);
        let response_topic = self.response_topic.as_ref().map_or(0, |topic| topic.len());
        self.topic.len() + self.payload.len() + correlation_data + response_topic
    }
}

/// What became of a message to the clients of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// A client has it: acknowledged, or written with QoS 0.
    Delivered,
    /// It was written, or is about to be, and not acknowledged.
    Unacknowledged,
    /// It was not written to any client and never will be.
    NeverWritten,
}

/// To how many connections a message has been handed.
#[derive(Debug, Default)]
struct Writing(AtomicUsize);

impl Writing {
    const GIVEN_UP: usize = usize::MAX;

    /// One more, unless the message has been given up.
    fn begin(&self) -> bool {
        self.change(|begun| (begun != Self::GIVEN_UP).then(|| begun + 1))
    }

    /// One less: it did not take the message.
    fn undo(&self) {
        self.change(|begun| (begun != Self::GIVEN_UP).then(|| begun.saturating_sub(1)));
    }

    /// Gives the message up, unless it has been handed to one; returns whether it is given up.
    fn give_up(&self) -> bool {
        self.change(|begun| [0, Self::GIVEN_UP].contains(&begun).then_some(Self::GIVEN_UP))
    }

    fn change(&self, to: impl FnMut(usize) -> Option<usize>) -> bool {
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, to).is_ok()
    }
}

/// Held with each copy of a message; the last one that is dropped tells its [`Told`].
#[derive(Debug)]
pub(crate) struct Receipt {
    teller: Mutex<Option<oneshot::Sender<Fate>>>,
    writing: Arc<Writing>,
}

/// Hears what becomes of a message.
#[derive(Debug)]
pub(crate) struct Told {
    fate: oneshot::Receiver<Fate>,
    writing: Arc<Writing>,
}

impl Receipt {
    pub(crate) fn new() -> (Arc<Self>, Told) {
        let (sender, fate) = oneshot::channel();
        let writing = Arc::<Writing>::default();
        let receipt = Arc::new(Self { teller: Mutex::new(Some(sender)), writing: writing.clone() });
        (receipt, Told { fate, writing })
    }

    /// Whether the message may be written: nobody has been told yet that it will not be.
    pub(crate) fn begin(&self) -> bool {
        self.writing.begin()
    }

    /// Nothing of what was begun was written.
    pub(crate) fn undo(&self) {
        self.writing.undo();
    }

    /// A client has the message: acknowledged, or written with QoS 0.
    pub(crate) fn delivered(&self) {
        tell(self.teller.lock().take(), Fate::Delivered);
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        let fate = if self.writing.give_up() { Fate::NeverWritten } else { Fate::Unacknowledged };
        tell(self.teller.get_mut().take(), fate);
    }
}

fn tell(teller: Option<oneshot::Sender<Fate>>, fate: Fate) {
    if let Some(teller) = teller {
        // Nobody waits any more when the push's deadline has passed.
        let _ = teller.send(fate);
    }
}

impl Told {
    /// What becomes of the message until the deadline. A message that waits then is given up.
    pub(crate) async fn until(self, deadline: Instant) -> Fate {
        match tokio::time::timeout_at(deadline, self.fate).await {
            Ok(Ok(fate)) => fate,
            Ok(Err(_)) | Err(_) if self.writing.give_up() => Fate::NeverWritten,
            Ok(Err(_)) | Err(_) => Fate::Unacknowledged,
        }
    }
}

/// What the owner of a connection does next.
#[derive(Debug)]
pub(crate) enum Item {
    Send(Outgoing),
    /// Close after everything before it has been written.
    Close(CloseReason),
}

/// Why a message was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// The outbox is closed.
    Closed,
    /// It has just been closed, because the client does not read.
    Overflow,
}

/// Messages that wait to be sent to one client.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    items: VecDeque<Item>,
    bytes: usize,
    /// The owner has been told and has not yet found the outbox empty.
    scheduled: bool,
    closed: bool,
}

impl Outbox {
    /// Adds a message; returns whether the owner must be told.
    pub(crate) fn push(
        &mut self,
        message: Outgoing,
        messages_max: usize,
        bytes_max: usize,
    ) -> Result<bool, Full> {
        if self.closed {
            return Err(Full::Closed);
        }
        let bytes = self.bytes.saturating_add(message.size());
        if self.items.len() >= messages_max || bytes > bytes_max {
            self.close();
            return Err(Full::Overflow);
        }
        self.bytes = bytes;
        self.items.push_back(Item::Send(message));
        Ok(self.schedule())
    }

    /// Takes no more messages and closes the connection after those that wait; returns whether the owner must be told.
    pub(crate) fn finish(&mut self, reason: CloseReason) -> bool {
        if self.closed {
            return false;
        }
        self.closed = true;
        self.items.push_back(Item::Close(reason));
        self.schedule()
    }

    /// Takes no more messages and drops those that wait.
    pub(crate) fn close(&mut self) {
        self.closed = true;
        self.bytes = 0;
        self.items = VecDeque::new();
    }

    fn schedule(&mut self) -> bool {
        !std::mem::replace(&mut self.scheduled, true)
    }

    /// The next item; after `None` the owner is told again when there is more.
    pub(crate) fn next(&mut self) -> Option<Item> {
        let item = self.items.pop_front();
        match &item {
            Some(Item::Send(message)) => self.bytes = self.bytes.saturating_sub(message.size()),
            Some(Item::Close(_)) => {}
            None => {
                self.scheduled = false;
                // Idle connections are many; a burst's memory is given back.
                self.items = VecDeque::new();
            }
        }
        item
    }
}

/// What a worker thread is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wake {
    /// The connection's outbox has something to send.
    Send(ConnectionId),
    /// Close the connection now.
    Close(ConnectionId, CloseReason),
}

/// The way to one worker thread. It holds at most two entries for each connection: the outbox tells only when it was
/// idle, and a connection is closed once.
#[derive(Debug, Default)]
pub(crate) struct Worker {
    wakes: Mutex<Vec<Wake>>,
    notify: Notify,
}

impl Worker {
    pub(crate) fn wake(&self, wake: Wake) {
        self.wakes.lock().push(wake);
        self.notify.notify_one();
    }

    /// Waits until there is something to do and takes all of it.
    pub(crate) async fn woken(&self) -> Vec<Wake> {
        loop {
            let wakes = std::mem::take(&mut *self.wakes.lock());
            if !wakes.is_empty() {
                return wakes;
            }
            self.notify.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn message(bytes: usize) -> Outgoing {
        Outgoing::new("t".into(), Bytes::from(vec![0; bytes]), Qos::AtMostOnce)
    }

    #[test]
    fn the_owner_is_told_once_until_the_outbox_is_empty() {
        let mut outbox = Outbox::default();
        assert_eq!(outbox.push(message(1), 10, 100), Ok(true));
        assert_eq!(outbox.push(message(1), 10, 100), Ok(false));
        assert!(outbox.next().is_some() && outbox.next().is_some() && outbox.next().is_none());
        assert_eq!(outbox.push(message(1), 10, 100), Ok(true));
    }

    #[test]
    fn too_many_messages_close_it() {
        let mut outbox = Outbox::default();
        for _ in 0..3 {
            outbox.push(message(1), 3, 100).unwrap();
        }
        assert_eq!(outbox.push(message(1), 3, 100), Err(Full::Overflow));
        assert_eq!(outbox.push(message(1), 3, 100), Err(Full::Closed));
        assert!(outbox.next().is_none());
    }

    #[test]
    fn too_many_bytes_close_it() {
        let mut outbox = Outbox::default();
        outbox.push(message(60), 10, 100).unwrap();
        assert_eq!(outbox.push(message(60), 10, 100), Err(Full::Overflow));
    }

    #[test]
    fn what_waits_is_sent_before_the_end() {
        let mut outbox = Outbox::default();
        outbox.push(message(1), 10, 100).unwrap();
        assert!(!outbox.finish(CloseReason::Undelivered));
        assert_eq!(outbox.push(message(1), 10, 100), Err(Full::Closed));
        assert!(matches!(outbox.next(), Some(Item::Send(_))));
        assert!(matches!(outbox.next(), Some(Item::Close(CloseReason::Undelivered))));
    }

    #[tokio::test]
    async fn a_receipt_tells_whether_a_client_may_have_the_message() {
        let later = || Instant::now() + Duration::from_secs(60);
        let (receipt, told) = Receipt::new();
        assert!(receipt.begin());
        receipt.delivered();
        assert_eq!(told.until(later()).await, Fate::Delivered);
        let (receipt, told) = Receipt::new();
        drop(receipt);
        assert_eq!(told.until(later()).await, Fate::NeverWritten);
        // It was too large for its client, and for the other one not.
        let (receipt, told) = Receipt::new();
        assert!(receipt.begin());
        receipt.undo();
        drop(receipt);
        assert_eq!(told.until(later()).await, Fate::NeverWritten);
        let (receipt, told) = Receipt::new();
        assert!(receipt.begin() && receipt.begin());
        receipt.undo();
        drop(receipt);
        assert_eq!(told.until(later()).await, Fate::Unacknowledged);
        // One client of two was written to.
        let (receipt, told) = Receipt::new();
        let other = receipt.clone();
        assert!(receipt.begin());
        drop((receipt, other));
        assert_eq!(told.until(later()).await, Fate::Unacknowledged);
    }

    #[tokio::test]
    async fn what_was_told_to_be_unwritten_is_not_written() {
        let (receipt, told) = Receipt::new();
        assert_eq!(told.until(Instant::now()).await, Fate::NeverWritten);
        assert!(!receipt.begin());
        let (receipt, told) = Receipt::new();
        assert!(receipt.begin());
        assert_eq!(told.until(Instant::now()).await, Fate::Unacknowledged);
        assert!(receipt.begin(), "it may go to other clients still, within its deadline");
    }

    #[test]
    fn nothing_is_written_after_its_deadline() {
        let now = Instant::now();
        assert!(message(1).begin(now));
        let (receipt, _told) = Receipt::new();
        let message = Outgoing { deadline: Some(now), receipt: Some(receipt), ..message(1) };
        assert!(message.begin(now.checked_sub(Duration::from_millis(1)).unwrap()));
        assert!(!message.begin(now));
    }
}
