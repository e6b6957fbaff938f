//! SUBSCRIBE and UNSUBSCRIBE. A client may subscribe to the topics of endpoints whose token it shows and,
//! when it has shown credentials, to those that an extension serves and lets it have; to nothing else: the
//! gateway is no broker.

use ids::CorrelationId;
use kp1::{PathError, TopicFilter};
use ntex_mqtt::v5::codec::{DisconnectReasonCode, UnsubscribeAckReason};
use ntex_mqtt::{QoS, v3, v5};
use tokio::time::Instant;

use super::codes;
use super::session::{Closed, Session, quality};
use crate::clients::{Client, Sender};
use crate::connection::Asked;
use crate::failure::Failure;
use crate::outbox::Qos;
use crate::registry::Server;
use crate::relay::Identified;

/// Why a filter was not granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denied {
    /// A shared subscription.
    Shared,
    /// Not a filter of one endpoint's topics, nor of those that an extension serves.
    Filter,
    /// The application version or the token does not exist or may not be used, or the extension refuses.
    Unauthorized,
    /// The connection has too many subscriptions or endpoints.
    Quota,
    /// The token cannot be checked now, or the extension cannot be asked.
    Unavailable,
}

/// Handles the packets of MQTT 3.1.1 other than PUBLISH.
pub(super) async fn packet_v3(
    session: &v3::Session<Session>,
    message: v3::ProtocolMessage,
) -> Result<v3::ProtocolMessageAck, Closed> {
    Ok(match message {
        v3::ProtocolMessage::Subscribe(mut subscribe) => {
            let (mut answered, deadline) = (Vec::new(), session.local.gateway.deadline(None));
            for mut filter in &mut subscribe {
                let qos = filter.qos();
                match grant(session, filter.topic(), qos, deadline, &mut answered).await {
                    Ok(()) => filter.confirm(qos),
                    Err(_) => filter.fail(),
                }
            }
            open(session, answered);
            subscribe.ack()
        }
        v3::ProtocolMessage::Unsubscribe(unsubscribe) => {
            for filter in unsubscribe.iter() {
                session.local.gateway.connections.unsubscribe(&session.connection, filter);
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
            let (mut answered, deadline) = (Vec::new(), session.local.gateway.deadline(None));
            for mut filter in &mut subscribe {
                let qos = filter.options().qos;
                match grant(session, filter.topic(), qos, deadline, &mut answered).await {
                    Ok(()) => filter.confirm(qos),
                    Err(denied) => filter.fail(codes::subscribe_ack(denied)),
                }
            }
            open(session, answered);
            subscribe.ack()
        }
        v5::ProtocolMessage::Unsubscribe(mut unsubscribe) => {
            for mut filter in &mut unsubscribe {
                if session.local.gateway.connections.unsubscribe(&session.connection, filter.topic()) {
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

/// A subscription that an extension was asked about, and the quality of service that is granted, if it is.
type Answered = (Asked, Option<Qos>);

/// Lets the messages of extensions come that were held back. Nothing may be awaited between this and the
/// SUBACK: what writes the messages runs on this thread too, and so after that.
fn open(session: &Session, answered: Vec<Answered>) {
    for (asked, granted) in answered {
        session.local.gateway.connections.answer_topic(&session.connection, asked, granted);
    }
}

/// Grants a filter: checks whose topics it reaches, attaches the endpoint and keeps the subscription. All filters of a
/// packet have one deadline, or a long list of them would be worked on for hours.
async fn grant(
    session: &Session,
    text: &str,
    qos: QoS,
    deadline: Instant,
    answered: &mut Vec<Answered>,
) -> Result<(), Denied> {
    if text.starts_with("$share/") {
        return Err(Denied::Shared);
    }
    let filter = TopicFilter::parse(text).map_err(|_| Denied::Filter)?;
    let target = match (filter.target(), session.connection.client.as_deref()) {
        (Ok(target), _) => target,
        (Err(PathError::NotKp1), Some(client)) => {
            return grant_topic(session, client, &filter, qos, deadline, answered).await;
        }
        (Err(error), _) if error.status_code() == 401 => return Err(Denied::Unauthorized),
        (Err(_), _) => return Err(Denied::Filter),
    };
    if !session.connection.rate.admit(Instant::now()) {
        return Err(Denied::Quota);
    }
    let gateway = &session.local.gateway;
    let correlation_id = gateway.relay.correlation_ids.next();
    let sender = Sender::Client(&session.connection);
    let (version, token) = (target.app_version, target.token);
    let identified = gateway.relay.identify(version, token, sender, &correlation_id, deadline).await;
    let Identified { app_version, identity, mark } =
        identified.map_err(|failure| denied(session, &correlation_id, &failure))?;
    gateway.attach(&session.connection, &app_version, &identity, mark).map_err(|_| Denied::Quota)?;
    session.connection.subscribe(filter, quality(qos)).map_err(|_| Denied::Quota)
}

/// Grants a filter of topics that an extension serves, if that does.
async fn grant_topic(
    session: &Session,
    client: &Client,
    filter: &TopicFilter,
    qos: QoS,
    deadline: Instant,
    answered: &mut Vec<Answered>,
) -> Result<(), Denied> {
    let (gateway, connection) = (&session.local.gateway, &session.connection);
    if matches!(gateway.relay.registry.server_of_filter(filter), Server::Nobody) {
        return Err(Denied::Filter);
    }
    if !connection.rate.admit(Instant::now()) {
        return Err(Denied::Quota);
    }
    let correlation_id = gateway.relay.correlation_ids.next();
    let granting = async {
        let (served, asked) = gateway.begin_to_subscribe(connection, client, filter, deadline).await?;
        let granted =
            gateway.ask_to_subscribe(&served, connection, client, filter, &correlation_id, deadline).await;
        answered.push((asked, granted.is_ok().then(|| quality(qos))));
        granted
    };
    granting.await.map_err(|failure| match failure.status {
        400 => Denied::Filter,
        _ => denied(session, &correlation_id, &failure),
    })
}

fn denied(session: &Session, correlation_id: &CorrelationId, failure: &Failure) -> Denied {
    tracing::debug!(%correlation_id, client_id = &*session.connection.client_id, %failure, "a subscription was denied");
    match failure {
        Failure { passing: true, .. } => Denied::Unavailable,
        Failure { status: 429, .. } => Denied::Quota,
        _ => Denied::Unauthorized,
    }
}
