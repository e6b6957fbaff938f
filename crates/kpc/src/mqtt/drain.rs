//! Sending what waits in a connection's outbox, on the thread that owns the connection.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use ntex::time::Millis;
use ntex::util::{ByteString, Bytes};
use ntex_mqtt::error::SendPacketError;
use ntex_mqtt::{v3, v5};
use tokio::time::Instant;

use super::codes;
use crate::connection::{Connection, ConnectionId};
use crate::gateway::Gateway;
use crate::outbox::{CloseReason, Item, Outgoing, Qos, Receipt, Wake, Worker};

/// How long a client has to read an `/error` that its connection's end follows.
const LAST_WORDS: Millis = Millis(250);

/// The way out to a client, in its version of MQTT.
#[derive(Clone)]
pub(super) enum Sink {
    V3(v3::MqttSink),
    V5(v5::MqttSink),
}

/// What was done with a message.
enum Sent {
    Written,
    /// Nothing: its deadline had passed.
    TooLate,
}

/// What a worker thread keeps of its own.
pub(super) struct Local {
    pub(super) gateway: Arc<Gateway>,
    pub(super) worker: Arc<Worker>,
    connections: RefCell<HashMap<ConnectionId, (Arc<Connection>, Sink)>>,
}

impl Local {
    /// Sets up the calling worker thread.
    pub(super) fn start(gateway: Arc<Gateway>) -> Rc<Self> {
        let local = Rc::new(Self { gateway, worker: Arc::default(), connections: RefCell::default() });
        ntex::rt::spawn_detached(local.clone().run());
        local
    }

    async fn run(self: Rc<Self>) {
        loop {
            for wake in self.worker.woken().await {
                match wake {
                    Wake::Send(id) => {
                        if let Some((connection, sink)) = self.find(id) {
                            ntex::rt::spawn_detached(drain(connection, sink));
                        }
                    }
                    Wake::Close(id, reason) => {
                        if let Some((_, sink)) = self.find(id) {
                            sink.close(reason);
                        }
                    }
                }
            }
        }
    }

    fn find(&self, id: ConnectionId) -> Option<(Arc<Connection>, Sink)> {
        self.connections.borrow().get(&id).cloned()
    }

    pub(super) fn add(&self, connection: Arc<Connection>, sink: Sink) {
        self.connections.borrow_mut().insert(connection.id, (connection, sink));
    }

    pub(super) fn remove(&self, id: ConnectionId) {
        let mut connections = self.connections.borrow_mut();
        connections.remove(&id);
        // A wave of connections must not hold its memory for ever.
        if connections.len() * 4 < connections.capacity() {
            let room = connections.len() * 2;
            connections.shrink_to(room);
        }
    }
}

/// Sends until the outbox is empty. There is one such task at most for a connection: the outbox tells of itself again
/// only after it was found empty.
async fn drain(connection: Arc<Connection>, sink: Sink) {
    while let Some(item) = connection.next_item() {
        match item {
            Item::Send(message) => match sink.send(message).await {
                Ok(Sent::Written) => {}
                Ok(Sent::TooLate) => connection.metrics.expired(),
                // A device's own affair, and as frequent as it likes.
                Err(SendPacketError::Encode(error)) => {
                    connection.metrics.too_large_for_client();
                    let client_id = &*connection.client_id;
                    tracing::debug!(client_id, %error, "a message was not sent: it is too large for its client");
                }
                Err(_) => {
                    // Either the client has gone, which is no news, or it has not read for too long.
                    if sink.is_open() {
                        connection.close_slow();
                    }
                    return connection.discard();
                }
            },
            Item::Close(reason) => {
                if sink.must_be_heard_before(reason) {
                    ntex::time::sleep(LAST_WORDS).await;
                }
                return sink.close(reason);
            }
        }
    }
}

impl Sink {
    /// Sends one message. With QoS 1 and 2 it waits only until the client may be sent another one; the acknowledgement
    /// is awaited beside, and the library bounds how many are.
    ///
    /// # Errors
    /// When the message is too large for the client, the connection has ended, or the client has not read for too long.
    async fn send(&self, message: Outgoing) -> Result<Sent, SendPacketError> {
        let topic = ByteString::from(&*message.topic);
        let payload = Bytes::copy_from_slice(&message.payload);
        match message.qos {
            Qos::AtMostOnce => {
                if !message.begin(Instant::now()) {
                    return Ok(Sent::TooLate);
                }
                let sent = self.send_once(&message, topic, payload).await;
                undo_unencoded(&sent, message.receipt.as_deref());
                sent?;
            }
            Qos::AtLeastOnce | Qos::ExactlyOnce => {
                if !self.ready().await {
                    return Err(SendPacketError::Disconnected);
                }
                // Only now: what fills the client's window may have stood there for long.
                if !message.begin(Instant::now()) {
                    return Ok(Sent::TooLate);
                }
                let (sink, receipt) = (self.clone(), message.receipt.clone());
                let mut sending =
                    Box::pin(async move { sink.send_acknowledged(&message, topic, payload).await });
                // The first look writes the message, so that what follows, maybe the end, follows it.
                match futures::poll!(&mut sending) {
                    Poll::Ready(sent @ Err(SendPacketError::Encode(_))) => {
                        undo_unencoded(&sent, receipt.as_deref());
                        return sent.map(|()| Sent::Written);
                    }
                    Poll::Ready(sent) => tell_unacknowledged(&sent),
                    Poll::Pending => {
                        ntex::rt::spawn_detached(async move { tell_unacknowledged(&sending.await) });
                    }
                }
            }
        }
        Ok(Sent::Written)
    }

    /// Whether the client can learn why its connection ends only from what was just sent. When it goes on sending, its
    /// system may throw that away with the connection before it was read.
    fn must_be_heard_before(&self, reason: CloseReason) -> bool {
        matches!(self, Self::V3(_))
            && matches!(reason, CloseReason::Undelivered | CloseReason::Unauthenticated)
    }

    fn is_open(&self) -> bool {
        match self {
            Self::V3(sink) => sink.is_open(),
            Self::V5(sink) => sink.is_open(),
        }
    }

    async fn ready(&self) -> bool {
        match self {
            Self::V3(sink) => sink.ready().await,
            Self::V5(sink) => sink.ready().await,
        }
    }

    async fn send_once(
        &self,
        message: &Outgoing,
        topic: ByteString,
        payload: Bytes,
    ) -> Result<(), SendPacketError> {
        match self {
            Self::V3(sink) => sink.publish(topic).send_at_most_once(payload).await?,
            Self::V5(sink) => publish_v5(sink, message, topic).send_at_most_once(payload).await?,
        }
        delivered(message);
        Ok(())
    }

    async fn send_acknowledged(
        &self,
        message: &Outgoing,
        topic: ByteString,
        payload: Bytes,
    ) -> Result<(), SendPacketError> {
        match (self, message.qos) {
            (Self::V3(sink), Qos::ExactlyOnce) => {
                sink.publish(topic).send_exactly_once(payload).await?.release().await?
            }
            (Self::V3(sink), _) => sink.publish(topic).send_at_least_once(payload).await?,
            (Self::V5(sink), Qos::ExactlyOnce) => {
                publish_v5(sink, message, topic).send_exactly_once(payload).await?.release().await?;
            }
            (Self::V5(sink), _) => {
                let ack = publish_v5(sink, message, topic).send_at_least_once(payload).await?;
                if u8::from(ack.reason_code) >= 0x80 {
                    tracing::debug!(reason = ?ack.reason_code, "a client refused a message");
                    return Ok(());
                }
            }
        }
        delivered(message);
        Ok(())
    }

    /// Closes the connection: in an orderly way, or at once when the client does not read anyway.
    fn close(&self, reason: CloseReason) {
        match (self, reason) {
            (Self::V3(sink), CloseReason::SlowReader) => sink.force_close(),
            (Self::V5(sink), CloseReason::SlowReader) => sink.force_close(),
            (Self::V3(sink), _) => sink.close(),
            (Self::V5(sink), reason) => {
                let mut disconnect = v5::codec::Disconnect::new(codes::disconnect(reason));
                disconnect.reason_string = reason.words().map(ByteString::from_static);
                sink.close_with_reason(disconnect);
            }
        }
    }
}

fn publish_v5(sink: &v5::MqttSink, message: &Outgoing, topic: ByteString) -> v5::PublishBuilder {
    let mut publish = sink.publish(topic);
    if let Some(data) = &message.correlation_data {
        let data = Bytes::copy_from_slice(data);
        publish = publish.properties(|properties| properties.correlation_data = Some(data));
    }
    if let Some(topic) = &message.response_topic {
        let topic = ByteString::from(&**topic);
        publish = publish.properties(|properties| properties.response_topic = Some(topic));
    }
    if let Some(deadline) = message.deadline {
        // For whatever holds it up behind us.
        let expiry = whole_seconds(deadline.saturating_duration_since(Instant::now()));
        publish = publish.properties(|properties| properties.message_expiry_interval = Some(expiry));
    }
    publish
}

/// The seconds, rounded up, as MQTT has no shorter ones.
fn whole_seconds(left: Duration) -> u32 {
    u32::try_from(left.as_millis().div_ceil(1_000)).unwrap_or(u32::MAX).max(1)
}

/// What cannot be encoded, because it is too large for its client, was not written.
fn undo_unencoded(sent: &Result<(), SendPacketError>, receipt: Option<&Receipt>) {
    if let (Err(SendPacketError::Encode(_)), Some(receipt)) = (sent, receipt) {
        receipt.undo();
    }
}

fn tell_unacknowledged(sent: &Result<(), SendPacketError>) {
    if let Err(error) = sent {
        tracing::debug!(%error, "a message was not acknowledged by its client");
    }
}

fn delivered(message: &Outgoing) {
    if let Some(receipt) = &message.receipt {
        receipt.delivered();
    }
}
