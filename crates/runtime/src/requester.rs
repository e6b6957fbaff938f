//! Requests to other services and their answers, matched by slot.
//!
//! Answers to a replica come in over one subscription for each protocol, `kaa.v1.replica.<replica>.<protocol>.>` or less, so that a service
//! needs no right to hear what it does not ask for. The subject to reply to holds
//! a number of ours, the slot (3/ISM lets a responder change only the last part of it), so that also the server's
//! "no responders" notice finds the request that it belongs to.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, HeaderMap, Message, StatusCode};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::channel::mpsc;
use ids::{InstanceName, ReplicaId};
use ism::subject::{Message as MessageType, Reply};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::Subjects;
use crate::subjects::ROUND_TRIP;

/// Requests of one replica that may wait at once; more are refused, so that a dead peer cannot fill the memory.
const PENDING_MAX: usize = 65_536;
/// Messages to this replica that answer no waiting request and that a holder of [`Requester::unmatched`] has not read.
const UNMATCHED_MAX: usize = 1_024;

/// Why a request got no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Nobody listens at the subject.
    #[error("no replica of the service is running")]
    NoResponders,
    /// The time ran out.
    #[error("no answer in time")]
    Timeout,
    /// Too many requests wait already, or this process is stopping.
    #[error("too many requests wait for an answer")]
    Overloaded,
    /// A mistake in the code of the asking service.
    #[error("the service's subjects() do not name the protocol of this request")]
    NotDeclared,
}

/// Sends requests and hands answers back. Cheap to clone.
#[derive(Clone)]
pub struct Requester {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    replica: ReplicaId,
    protocols: BTreeSet<&'static str>,
    waiting: Mutex<HashMap<u64, Waiting>>,
    unmatched: Mutex<Option<mpsc::Sender<Message>>>,
}

/// A request that waits for answers.
struct Waiting {
    /// Only what comes in this protocol can be one: who may answer in it is all that NATS checks.
    protocol: &'static str,
    /// Only what comes in this name can be one, where NATS checks that too.
    sender: Option<InstanceName>,
    answers: mpsc::Sender<Message>,
}

impl Waiting {
    fn may_be_answered_by(&self, reply: &Reply<'_>) -> bool {
        self.protocol == reply.protocol && self.sender.as_ref().map(InstanceName::as_str) == reply.sender
    }
}

impl Requester {
    /// Subscribes to what the service receives as a replica, and hands it out for as long as the returned tasks run.
    pub(crate) async fn start(
        client: Client,
        replica: ReplicaId,
        subjects: &Subjects,
    ) -> anyhow::Result<(Self, JoinSet<()>)> {
        let shared = Arc::new(Shared {
            client,
            replica,
            protocols: subjects.protocols().clone(),
            waiting: Mutex::default(),
            unmatched: Mutex::default(),
        });
        let mut dispatchers = JoinSet::new();
        for last in subjects.received() {
            let subject = format!("kaa.v1.replica.{}.{last}", shared.replica);
            let mut answers = shared.client.subscribe(subject).await?;
            let shared = shared.clone();
            dispatchers.spawn(async move {
                while let Some(message) = answers.next().await {
                    shared.dispatch(message);
                }
            });
        }
        Ok((Self { shared }, dispatchers))
    }

    /// Sends a request and waits for one answer of the given type.
    pub async fn request(
        &self,
        subject: String,
        answer: MessageType,
        payload: Bytes,
        headers: Option<HeaderMap>,
        timeout: Duration,
    ) -> Result<Message, RequestError> {
        let deadline = Instant::now() + timeout;
        self.exchange(subject, answer, payload, headers, 1).await?.next(deadline).await
    }

    /// Sends a message that several services may answer with the given type, at most `answers_max` of which are kept unread.
    pub async fn exchange(
        &self,
        subject: String,
        answer: MessageType,
        payload: Bytes,
        headers: Option<HeaderMap>,
        answers_max: usize,
    ) -> Result<Replies, RequestError> {
        self.send(subject, answer, None, payload, headers, answers_max).await
    }

    /// Sends a message that one instance alone may answer, once, in its own name, as NATS checks
    /// ([`Subjects::answers_in_own_name`]).
    pub async fn exchange_with(
        &self,
        instance: &InstanceName,
        subject: String,
        answer: MessageType,
        payload: Bytes,
        headers: Option<HeaderMap>,
    ) -> Result<Replies, RequestError> {
        self.send(subject, answer, Some(instance), payload, headers, 1).await
    }

    async fn send(
        &self,
        subject: String,
        answer: MessageType,
        sender: Option<&InstanceName>,
        payload: Bytes,
        headers: Option<HeaderMap>,
        answers_max: usize,
    ) -> Result<Replies, RequestError> {
        let shared = &self.shared;
        if !shared.protocols.contains(answer.protocol) {
            tracing::error!(subject, protocol = answer.protocol, "{}", RequestError::NotDeclared);
            return Err(RequestError::NotDeclared);
        }
        let slot = new_slot();
        // A futures channel holds its buffer plus one message for each sender.
        let (answers, receiver) = mpsc::channel(answers_max.saturating_sub(1));
        {
            let mut waiting = shared.waiting.lock();
            if waiting.len() >= PENDING_MAX {
                return Err(RequestError::Overloaded);
            }
            waiting.insert(slot, Waiting { protocol: answer.protocol, sender: sender.cloned(), answers });
        }
        let replies = Replies { shared: shared.clone(), slot, receiver };
        let reply = match sender {
            Some(sender) => answer.by(sender).reply(&shared.replica, slot),
            None => answer.reply(&shared.replica, slot),
        };
        let sent = match headers {
            Some(headers) => {
                shared.client.publish_with_reply_and_headers(subject, reply, headers, payload).await
            }
            None => shared.client.publish_with_reply(subject, reply, payload).await,
        };
        sent.map_err(|_| RequestError::Overloaded)?;
        Ok(replies)
    }

    /// Waits until the server has taken in all that was sent before on this connection, subscriptions too: it takes
    /// things in their order, so when a message to ourselves is back, what went before it is done. (The client's own
    /// `flush` only writes.)
    pub(crate) async fn round_trip(&self, timeout: Duration) -> Result<(), RequestError> {
        let shared = &self.shared;
        let slot = new_slot();
        let (sender, receiver) = mpsc::channel(0);
        let waiting = Waiting { protocol: ROUND_TRIP.protocol, sender: None, answers: sender };
        shared.waiting.lock().insert(slot, waiting);
        let mut back = Replies { shared: shared.clone(), slot, receiver };
        let subject = ROUND_TRIP.reply(&shared.replica, slot);
        shared.client.publish(subject, Bytes::new()).await.map_err(|_| RequestError::Overloaded)?;
        back.next(Instant::now() + timeout).await.map(drop)
    }

    /// Messages to this replica that answer no waiting request: pushes, and answers that came too late. There is one
    /// such stream for each replica; asking again takes it over.
    #[must_use]
    pub fn unmatched(&self) -> mpsc::Receiver<Message> {
        let (sender, receiver) = mpsc::channel(UNMATCHED_MAX);
        *self.shared.unmatched.lock() = Some(sender);
        receiver
    }
}

/// A number for a request that nobody can guess: all services of a protocol may publish where its answers come in, and only
/// who is asked is told the number.
fn new_slot() -> u64 {
    rand::random()
}

impl Shared {
    fn dispatch(&self, message: Message) {
        let Some(reply) = ism::subject::parse_reply(&message.subject) else {
            return self.dispatch_unmatched(message);
        };
        let mut waiting = self.waiting.lock();
        match waiting.get_mut(&reply.slot) {
            // Answers above the bound are more than the asker wanted.
            Some(request) if request.may_be_answered_by(&reply) => drop(request.answers.try_send(message)),
            // Else whoever may answer in one protocol, or in one name, could answer requests in all.
            Some(_) => {
                drop(waiting);
                let subject = &message.subject;
                tracing::warn!(%subject, "an answer in another protocol or name than the request's was dropped");
            }
            None => {
                drop(waiting);
                self.dispatch_unmatched(message);
            }
        }
    }

    fn dispatch_unmatched(&self, message: Message) {
        if let Some(sender) = self.unmatched.lock().as_mut()
            && sender.try_send(message).is_err_and(|error| error.is_full())
        {
            tracing::warn!("a message to this replica was dropped: its reader is behind");
        }
    }
}

/// The answers to one request; dropping it forgets the request.
pub struct Replies {
    shared: Arc<Shared>,
    slot: u64,
    receiver: mpsc::Receiver<Message>,
}

impl Replies {
    /// The next answer before the deadline.
    pub async fn next(&mut self, deadline: Instant) -> Result<Message, RequestError> {
        match tokio::time::timeout_at(deadline, self.receiver.next()).await {
            Err(_) => Err(RequestError::Timeout),
            Ok(None) => Err(RequestError::Overloaded),
            Ok(Some(message)) if message.status == Some(StatusCode::NO_RESPONDERS) => {
                Err(RequestError::NoResponders)
            }
            Ok(Some(message)) => Ok(message),
        }
    }
}

impl Drop for Replies {
    fn drop(&mut self) {
        self.shared.waiting.lock().remove(&self.slot);
    }
}
