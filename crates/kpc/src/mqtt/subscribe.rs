//! SUBSCRIBE and UNSUBSCRIBE. A client may subscribe to the topics of endpoints whose token it shows, and to nothing
//! else: the gateway is no broker.

use kp1::TopicFilter;
use ntex_mqtt::v5::codec::{DisconnectReasonCode, UnsubscribeAckReason};
use ntex_mqtt::{QoS, v3, v5};
use tokio::time::Instant;

use super::codes;
use super::session::{Closed, Session, quality};
use crate::clients::Sender;
use crate::failure::Failure;
use crate::relay::Identified;

/// Why a filter was not granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denied {
    /// A shared subscription.
    Shared,
    /// Not a filter of one endpoint's topics.
    Filter,
    /// The application version or the token does not exist, or may not be used.
    Unauthorized,
    /// The connection has too many subscriptions or endpoints.
    Quota,
    /// The token cannot be checked now.
    Unavailable,
}

/// Handles the packets of MQTT 3.1.1 other than PUBLISH.
pub(super) async fn packet_v3(
    session: &v3::Session<Session>,
    message: v3::ProtocolMessage,
) -> Result<v3::ProtocolMessageAck, Closed> {
    Ok(match message {
        v3::ProtocolMessage::Subscribe(mut subscribe) => {
            for mut filter in &mut subscribe {
                match grant(session, filter.topic(), filter.qos()).await {
                    Ok(()) => filter.confirm(filter.qos()),
                    Err(_) => filter.fail(),
                }
            }
            subscribe.ack()
        }
        v3::ProtocolMessage::Unsubscribe(unsubscribe) => {
            for filter in unsubscribe.iter() {
                session.connection.unsubscribe(filter);
            }
            unsubscribe.ack()
        }
        v3::ProtocolMessage::Disconnect(disconnect) => {
            session.farewell();
            disconnect.ack()
        }
        message @ (v3::ProtocolMessage::PublishRelease(_) | v3::ProtocolMessage::Ping(_)) => message.ack(),
    })
}

/// Handles the packets of MQTT 5 other than PUBLISH.
pub(super) async fn packet_v5(
    session: &v5::Session<Session>,
    message: v5::ProtocolMessage,
) -> Result<v5::ProtocolMessageAck, Closed> {
    Ok(match message {
        v5::ProtocolMessage::Subscribe(mut subscribe) => {
            for mut filter in &mut subscribe {
                let qos = filter.options().qos;
                match grant(session, filter.topic(), qos).await {
                    Ok(()) => filter.confirm(qos),
                    Err(denied) => filter.fail(codes::subscribe_ack(denied)),
                }
            }
            subscribe.ack()
        }
        v5::ProtocolMessage::Unsubscribe(mut unsubscribe) => {
            for mut filter in &mut unsubscribe {
                if session.connection.unsubscribe(filter.topic()) {
                    filter.success();
                } else {
                    filter.fail(UnsubscribeAckReason::NoSubscriptionExisted);
                }
            }
            unsubscribe.ack()
        }
        v5::ProtocolMessage::Disconnect(disconnect) => {
            if disconnect.packet().reason_code == DisconnectReasonCode::NormalDisconnection {
                session.farewell();
            }
            disconnect.ack()
        }
        message @ (v5::ProtocolMessage::Auth(_)
        | v5::ProtocolMessage::PublishRelease(_)
        | v5::ProtocolMessage::Ping(_)) => message.ack(),
    })
}

/// Grants a filter: checks whose topics it reaches, attaches the endpoint and keeps the subscription.
async fn grant(session: &Session, text: &str, qos: QoS) -> Result<(), Denied> {
    if text.starts_with("$share/") {
        return Err(Denied::Shared);
    }
    let filter = TopicFilter::parse(text).map_err(|_| Denied::Filter)?;
    let target = filter
        .target()
        .map_err(|error| if error.status_code() == 401 { Denied::Unauthorized } else { Denied::Filter })?;
    if !session.connection.rate.admit(Instant::now()) {
        return Err(Denied::Quota);
    }
    let gateway = &session.local.gateway;
    let correlation_id = gateway.relay.correlation_ids.next();
    let deadline = gateway.deadline(None);
    let sender = Sender::Client(&session.connection);
    let (version, token) = (target.app_version, target.token);
    let identified = gateway.relay.identify(version, token, sender, &correlation_id, deadline).await;
    let Identified { app_version, identity, mark } = identified.map_err(|failure| {
        tracing::debug!(%correlation_id, client_id = &*session.connection.client_id, %failure, "a subscription was denied");
        match failure {
            Failure { passing: true, .. } => Denied::Unavailable,
            Failure { status: 429, .. } => Denied::Quota,
            _ => Denied::Unauthorized,
        }
    })?;
    gateway.attach(&session.connection, &app_version, &identity, mark).map_err(|_| Denied::Quota)?;
    session.connection.subscribe(filter, quality(qos)).map_err(|_| Denied::Quota)
}
