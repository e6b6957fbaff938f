//! PUBLISH from clients: the acknowledgement is the receipt, so it waits for the extension.

use std::future::pending;
use std::num::NonZeroU16;
use std::sync::Arc;

use ntex_mqtt::{QoS, v3, v5};
use tokio::time::Instant;

use super::codes;
use super::session::{Closed, Session, expiry, quality, traceparent};
use crate::memory::Taken;
use crate::outbox::{CloseReason, Qos};
use crate::topics::Packet;
use crate::uplink::{Payload, Publication, Verdict};

/// Handles PUBLISH of MQTT 3.1.1. Returning is the acknowledgement. There is none that says no: a bad message is
/// acknowledged (and told of on `/error`), and for one that could not be delivered the connection is closed instead,
/// so that the client sends it again.
pub(super) async fn publish_v3(session: &v3::Session<Session>, publish: v3::Publish) -> Result<(), Closed> {
    let packet = publish.packet();
    let publication = Publication {
        topic: (*packet.topic).into(),
        payload: Payload::own(bytes::Bytes::new()),
        qos: quality(packet.qos),
        waits: packet.qos > QoS::AtMostOnce,
        response_topic: None,
        correlation_data: None,
        expiry: None,
        traceparent: None,
    };
    let qos = publication.qos;
    let head = head(session, &publication.topic, packet.packet_id, packet.dup);
    let deadline = session.local.gateway.deadline(None);
    let payload = read(session, publish.payload_size(), deadline, async || publish.read().await).await?;
    match relay(session, Publication { payload, ..publication }, head, deadline).await {
        Verdict::Undelivered(_) if qos > Qos::AtMostOnce => {
            session.connection.finish(CloseReason::Undelivered);
            // No acknowledgement; the end of the connection ends this.
            pending().await
        }
        Verdict::Unwelcome(_) => unwelcome(session).await,
        Verdict::Taken | Verdict::Refused(_) | Verdict::Undelivered(_) => Ok(()),
    }
}

/// Handles PUBLISH of MQTT 5, whose acknowledgement can say no.
pub(super) async fn publish_v5(
    session: &v5::Session<Session>,
    publish: v5::Publish,
) -> Result<v5::PublishAck, Closed> {
    let packet = publish.packet();
    let properties = &packet.properties;
    let publication = Publication {
        topic: (*packet.topic).into(),
        payload: Payload::own(bytes::Bytes::new()),
        qos: quality(packet.qos),
        waits: false,
        response_topic: properties
            .response_topic
            .as_ref()
            .filter(|topic| !topic.is_empty())
            .map(|topic| (**topic).into()),
        correlation_data: properties
            .correlation_data
            .as_ref()
            .map(|data| bytes::Bytes::copy_from_slice(data)),
        expiry: properties.message_expiry_interval.map(expiry),
        traceparent: traceparent(&properties.user_properties),
    };
    let topic = publication.topic.clone();
    let head = head(session, &publication.topic, packet.packet_id, packet.dup);
    let deadline = session.local.gateway.deadline(publication.expiry);
    let payload = read(session, publish.payload_size(), deadline, async || publish.read().await).await?;
    let failure = match relay(session, Publication { payload, ..publication }, head, deadline).await {
        Verdict::Taken => return Ok(publish.ack()),
        Verdict::Unwelcome(_) => return unwelcome(session).await,
        Verdict::Refused(failure) | Verdict::Undelivered(failure) => failure,
    };
    let ack = v5::PublishAck::new(codes::publish_ack(&failure, &topic));
    Ok(if session.wants_reasons { ack.reason(failure.to_string().into()) } else { ack })
}

/// What else is to be known of a PUBLISH. It takes its place among others before anything is awaited.
fn head(session: &Session, topic: &Arc<str>, id: Option<NonZeroU16>, is_duplicate: bool) -> Packet {
    let place = session.local.gateway.place(&session.connection, topic);
    Packet { id: id.map(NonZeroU16::get), is_duplicate, place }
}

/// The tenant wants credentials. The message is neither taken nor bad, so it is not acknowledged: the client may send it
/// again once it has shown some.
async fn unwelcome<T>(session: &Session) -> T {
    session.connection.finish(CloseReason::Unauthenticated);
    pending().await
}

/// Relays in a task of its own: the library drops this handler when the client goes, and a client that publishes and
/// goes at once (as `mosquitto_pub` does) must not lose its message.
async fn relay(session: &Session, publication: Publication, head: Packet, deadline: Instant) -> Verdict {
    let (gateway, connection) = (session.local.gateway.clone(), session.connection.clone());
    if gateway.draining.is_cancelled() {
        // Neither taken nor refused: the connection is about to be closed, and the client sends it elsewhere.
        return pending().await;
    }
    // Boxed: the runtime moves what it is given several times, and this is large.
    let relaying = ntex::rt::spawn(Box::pin(async move {
        gateway.take_publication(&connection, publication, head, deadline).await
    }));
    match relaying.await {
        Ok(verdict) => verdict,
        // The worker thread is ending, and with it the connection.
        Err(_) => pending().await,
    }
}

/// Reads the payload, waiting for memory to keep it in until the deadline. While it waits no more is read of it. What
/// cannot be kept is read to its end all the same, for what follows it.
async fn read<E>(
    session: &Session,
    size: usize,
    deadline: Instant,
    mut next: impl AsyncFnMut() -> Result<Option<ntex::util::Bytes>, E>,
) -> Result<Payload, Closed> {
    let gateway = &session.local.gateway;
    let max = usize::try_from(gateway.config.limits.payload_bytes).unwrap_or(usize::MAX);
    let mut memory = Taken::default();
    let mut payload = Vec::new();
    let mut refused = (size > max).then_some(Payload::TooLarge(size));
    while let Some(chunk) = next().await.map_err(|_| Closed)? {
        if refused.is_some() {
            continue;
        }
        match gateway.memory.wait(chunk.len(), deadline).await {
            Ok(more) => memory.add(more),
            Err(failure) => {
                (memory, payload) = Default::default();
                refused = Some(Payload::NoRoom(failure));
                continue;
            }
        }
        if chunk.len() == size {
            return Ok(Payload::Kept { bytes: bytes::Bytes::copy_from_slice(&chunk), _memory: memory });
        }
        payload.extend_from_slice(&chunk);
    }
    Ok(refused.unwrap_or_else(|| Payload::Kept { bytes: payload.into(), _memory: memory }))
}
