//! PUBLISH from clients: the acknowledgement is the receipt, so it waits for the extension.

use std::future::pending;

use ntex_mqtt::{v3, v5};

use super::codes;
use super::session::{Closed, Session, expiry, quality, traceparent};
use crate::outbox::{CloseReason, Qos};
use crate::uplink::{Publication, Verdict};

/// Handles PUBLISH of MQTT 3.1.1. Returning is the acknowledgement. There is none that says no: a bad message is
/// acknowledged (and told of on `/error`), and for one that could not be delivered the connection is closed instead,
/// so that the client sends it again.
pub(super) async fn publish_v3(session: &v3::Session<Session>, publish: v3::Publish) -> Result<(), Closed> {
    let packet = publish.packet();
    let publication = Publication {
        topic: (*packet.topic).into(),
        payload: Ok(bytes::Bytes::new()),
        qos: quality(packet.qos),
        response_topic: None,
        correlation_data: None,
        expiry: None,
        traceparent: None,
    };
    let qos = publication.qos;
    let payload = read(session, publish.payload_size(), async || publish.read().await).await?;
    match relay(session, Publication { payload, ..publication }).await {
        Verdict::Undelivered(_) if qos > Qos::AtMostOnce => {
            session.connection.finish(CloseReason::Undelivered);
            // No acknowledgement; the end of the connection ends this.
            pending().await
        }
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
        payload: Ok(bytes::Bytes::new()),
        qos: quality(packet.qos),
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
    let payload = read(session, publish.payload_size(), async || publish.read().await).await?;
    let failure = match relay(session, Publication { payload, ..publication }).await {
        Verdict::Taken => return Ok(publish.ack()),
        Verdict::Refused(failure) | Verdict::Undelivered(failure) => failure,
    };
    let ack = v5::PublishAck::new(codes::publish_ack(&failure, &topic));
    Ok(if session.wants_reasons { ack.reason(failure.to_string().into()) } else { ack })
}

/// Relays in a task of its own: the library drops this handler when the client goes, and a client that publishes and
/// goes at once (as `mosquitto_pub` does) must not lose its message.
async fn relay(session: &Session, publication: Publication) -> Verdict {
    let (gateway, connection) = (session.local.gateway.clone(), session.connection.clone());
    if gateway.draining.is_cancelled() {
        // Neither taken nor refused: the connection is about to be closed, and the client sends it elsewhere.
        return pending().await;
    }
    // Boxed: the runtime moves what it is given several times, and this is large.
    let relaying =
        ntex::rt::spawn(Box::pin(async move { gateway.publish(Some(&connection), publication).await }));
    match relaying.await {
        Ok(verdict) => verdict,
        // The worker thread is ending, and with it the connection.
        Err(_) => pending().await,
    }
}

/// Reads the payload, or only its size when it is over the limit.
async fn read<E>(
    session: &Session,
    size: usize,
    mut next: impl AsyncFnMut() -> Result<Option<ntex::util::Bytes>, E>,
) -> Result<Result<bytes::Bytes, usize>, Closed> {
    let max = usize::try_from(session.local.gateway.config.limits.payload_bytes).unwrap_or(usize::MAX);
    let mut payload = Vec::new();
    while let Some(chunk) = next().await.map_err(|_| Closed)? {
        if size > max {
            continue;
        }
        if chunk.len() == size {
            return Ok(Ok(bytes::Bytes::copy_from_slice(&chunk)));
        }
        payload.extend_from_slice(&chunk);
    }
    if size > max { Ok(Err(size)) } else { Ok(Ok(payload.into())) }
}
