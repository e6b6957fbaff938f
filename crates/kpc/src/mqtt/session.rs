//! The beginning and the end of a connection.

use std::cell::{Cell, RefCell};
use std::num::{NonZeroU16, NonZeroU32};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ntex::time::Seconds;
use ntex_mqtt::{QoS, v3, v5};

use super::arrival::Arrival;
use super::codes;
use super::drain::{Local, Sink};
use crate::config::Limits;
use crate::connection::{Connection, Newcomer};
use crate::login::{self, Login, Refusal};
use crate::outbox::Qos;
use crate::peer::Peer;
use crate::uplink::{Payload, Publication};
use crate::wills::Will;

/// What a packet holds beside its payload, at most: the topic and the properties.
const ENVELOPE_BYTES: u32 = 128 * 1024;

/// The connection cannot go on; it is closed.
#[derive(Debug, thiserror::Error)]
#[error("the connection is closed")]
pub(super) struct Closed;

impl From<()> for Closed {
    fn from((): ()) -> Self {
        Self
    }
}

impl TryFrom<Closed> for v5::PublishAck {
    type Error = Closed;

    fn try_from(closed: Closed) -> Result<Self, Closed> {
        Err(closed)
    }
}

/// What belongs to one connection on its worker thread.
pub(super) struct Session {
    pub(super) local: Rc<Local>,
    pub(super) connection: Arc<Connection>,
    /// MQTT 5: whether the client wants reasons in words.
    pub(super) wants_reasons: bool,
    will: RefCell<Option<Will>>,
    ended: Cell<bool>,
}

impl Session {
    /// The client takes its leave: its will is not sent.
    pub(super) fn farewell(&self) {
        self.will.take();
    }

    /// The connection has ended. What it takes to forget it is done once, whoever notices first.
    pub(super) fn end(&self) {
        if self.ended.replace(true) {
            return;
        }
        let gateway = &self.local.gateway;
        let mark = gateway.clients.mark();
        self.local.remove(self.connection.id);
        gateway.connections.end(&self.connection);
        // Clients of a gateway that stops are back in a moment, on another replica.
        if let Some(will) = self.will.take()
            && !gateway.draining.is_cancelled()
            && self.connection.is_trusted()
        {
            gateway.execute(will, self.connection.clone(), mark);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.end();
    }
}

/// Answers CONNECT of MQTT 3.1.1.
pub(super) async fn connect_v3(
    local: &Rc<Local>,
    connect: v3::Connect<Arrival>,
) -> Result<v3::ConnectAck<Session>, Closed> {
    let packet = connect.packet();
    if packet.client_id.is_empty() && !packet.clean_session {
        return Ok(connect.identifier_rejected());
    }
    let will = packet.last_will.as_ref().map(|will| Will {
        publication: publication(&will.topic, &will.message, will.qos),
        delay: Duration::ZERO,
    });
    let keep_alive = packet.keep_alive;
    let newcoming = Newcoming {
        client_id: login::client_id(&packet.client_id),
        login: login(local, packet.username.as_deref(), packet.password.as_deref()),
        will,
        sink: Sink::V3(connect.sink()),
        wants_reasons: false,
    };
    let session = match open(local, &connect.st().peer, newcoming).await {
        Ok(session) => session,
        Err(refusal) => return Ok(connect.failed(codes::connect_v3(&refusal))),
    };
    let config = &local.gateway.config;
    let mut ack = connect
        .ack(session, false)
        .max_send(Some(config.limits.unacknowledged_per_connection))
        .max_packet_size(packet_max(&config.limits));
    // MQTT 3.1.1 cannot tell the client of another keep-alive; one that has none gets a long idle time.
    if keep_alive == 0 {
        ack = ack.idle_timeout(Seconds(config.mqtt.keep_alive_max_s));
    }
    Ok(ack)
}

/// Answers CONNECT of MQTT 5, and announces what a broker would have and the gateway has not.
pub(super) async fn connect_v5(
    local: &Rc<Local>,
    connect: v5::Connect<Arrival>,
) -> Result<v5::ConnectAck<Session>, Closed> {
    use v5::codec::ConnectAckReason;

    let packet = connect.packet();
    if packet.auth_method.is_some() {
        return Ok(connect.failed(ConnectAckReason::BadAuthenticationMethod));
    }
    let will = packet.last_will.as_ref();
    if will.is_some_and(|will| will.retain) {
        return Ok(connect.failed(ConnectAckReason::RetainNotSupported));
    }
    let will = will.map(|will| Will {
        publication: Publication {
            expiry: will.message_expiry_interval.map(expiry),
            traceparent: traceparent(&will.user_properties),
            ..publication(&will.topic, &will.message, will.qos)
        },
        delay: Duration::from_secs(will.will_delay_interval_sec.unwrap_or(0).into()),
    });
    let (keep_alive, wants_reasons) = (packet.keep_alive, packet.request_problem_info);
    let newcoming = Newcoming {
        client_id: login::client_id(&packet.client_id),
        login: login(local, packet.username.as_deref(), packet.password.as_deref()),
        will,
        sink: Sink::V5(connect.sink()),
        wants_reasons,
    };
    let session = match open(local, &connect.st().peer, newcoming).await {
        Ok(session) => session,
        Err(refusal) => {
            let reason_code = codes::connect_v5(&refusal);
            let reason_string = wants_reasons.then(|| refusal.to_string().into());
            let ack =
                v5::codec::ConnectAck { reason_code, reason_string, ..v5::codec::ConnectAck::default() };
            return Ok(connect.fail_with(ack));
        }
    };
    let config = &local.gateway.config;
    let assigned = (!session.connection.named).then(|| (*session.connection.client_id).into());
    let mut ack =
        connect.ack(session).max_send(Some(config.limits.unacknowledged_per_connection)).with(|ack| {
            ack.session_expiry_interval_secs = Some(0);
            ack.receive_max =
                NonZeroU16::new(config.limits.in_flight_per_connection).unwrap_or(NonZeroU16::MIN);
            ack.max_packet_size = Some(packet_max(&config.limits).get());
            ack.retain_available = false;
            ack.shared_subscription_available = false;
            ack.subscription_identifiers_available = false;
            ack.wildcard_subscription_available = true;
            ack.assigned_client_id = assigned;
        });
    if keep_alive == 0 || keep_alive > config.mqtt.keep_alive_max_s {
        ack = ack.keep_alive(config.mqtt.keep_alive_max_s);
    }
    Ok(ack)
}

/// What CONNECT says of the client.
struct Newcoming {
    client_id: Result<Option<Arc<str>>, Refusal>,
    login: Result<Option<Login>, Refusal>,
    will: Option<Will>,
    sink: Sink,
    wants_reasons: bool,
}

/// Reads user name and password; what is no login is only counted.
fn login(local: &Local, username: Option<&str>, password: Option<&[u8]>) -> Result<Option<Login>, Refusal> {
    let login = Login::read(username, password)?;
    let has_shown =
        username.is_some_and(|name| !name.is_empty()) || password.is_some_and(|it| !it.is_empty());
    if login.is_none() && has_shown {
        local.gateway.metrics.authentication("basic", "ignored");
    }
    Ok(login)
}

/// How many times a client is looked up whose credentials or whose tenant's demands change just then.
const LOOKUPS_MAX: usize = 3;

/// Finds out who the client is, and registers its connection.
async fn open(local: &Rc<Local>, peer: &Peer, newcoming: Newcoming) -> Result<Session, Refusal> {
    let gateway = &local.gateway;
    let Newcoming { client_id, login, will, sink, wants_reasons } = newcoming;
    let connection = admit(local, peer, client_id, login).await.inspect_err(|refusal| {
        gateway.metrics.refused_connection(refusal.label());
        let (address, transport) = (peer.address.ip(), peer.transport.name());
        if matches!(refusal, Refusal::Throttled(_)) {
            // Told of once when it began.
            tracing::debug!(%refusal, %address, transport, "a connection was refused");
        } else {
            tracing::info!(%refusal, %address, transport, "a connection was refused");
        }
    })?;
    local.add(connection.clone(), sink);
    if connection.named {
        gateway.wills.cancel(&connection.session);
    }
    gateway.tell_connected(&connection);
    let will = RefCell::new(will);
    Ok(Session { local: local.clone(), connection, wants_reasons, will, ended: Cell::new(false) })
}

async fn admit(
    local: &Rc<Local>,
    peer: &Peer,
    client_id: Result<Option<Arc<str>>, Refusal>,
    login: Result<Option<Login>, Refusal>,
) -> Result<Arc<Connection>, Refusal> {
    let gateway = &local.gateway;
    let (client_id, login) = (client_id?, login?);
    for _ in 0..LOOKUPS_MAX {
        if gateway.draining.is_cancelled() {
            return Err(Refusal::Stopping);
        }
        let mark = gateway.clients.mark();
        let client = gateway.clients.authenticate(peer, login.as_ref()).await?;
        let connection = gateway.connections.open(Newcomer {
            client_id: client_id.clone(),
            address: Some(peer.address.ip()),
            transport: peer.transport,
            client,
            worker: local.worker.clone(),
        });
        let connection = connection.map_err(Refusal::Limit)?;
        let client = connection.client.as_deref();
        if !client.is_some_and(|client| gateway.clients.is_outdated(mark, client)) {
            return Ok(connection);
        }
        gateway.connections.end(&connection);
    }
    Err(Refusal::Unavailable("the client's credentials are being changed; connect again".into()))
}

/// The longest packet in bytes once a client is connected; a frame of WebSocket holds as much. A payload somewhat over our
/// limit is read and refused with its own error; a packet far above ends the connection.
pub(super) fn packet_max(limits: &Limits) -> NonZeroU32 {
    let bytes = limits.payload_bytes.saturating_mul(2).saturating_add(ENVELOPE_BYTES);
    NonZeroU32::new(bytes).unwrap_or(NonZeroU32::MIN)
}

/// What both versions of MQTT have of a message.
fn publication(topic: &str, payload: &[u8], qos: QoS) -> Publication {
    Publication {
        topic: topic.into(),
        payload: Payload::own(bytes::Bytes::copy_from_slice(payload)),
        qos: quality(qos),
        waits: false,
        response_topic: None,
        correlation_data: None,
        expiry: None,
        traceparent: None,
    }
}

/// An expiry of zero is legal, and still the message gets the one attempt that it came for.
pub(super) fn expiry(seconds: u32) -> Duration {
    Duration::from_secs(seconds.max(1).into())
}

/// The W3C trace context in a message's user properties.
pub(super) fn traceparent(properties: &v5::codec::UserProperties) -> Option<Box<str>> {
    let property = properties.iter().find(|(name, _)| &**name == "traceparent");
    property.map(|(_, value)| Box::from(&**value))
}

pub(super) fn quality(qos: QoS) -> Qos {
    match qos {
        QoS::AtMostOnce => Qos::AtMostOnce,
        QoS::AtLeastOnce => Qos::AtLeastOnce,
        QoS::ExactlyOnce => Qos::ExactlyOnce,
    }
}
