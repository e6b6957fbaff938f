//! Messages from extensions to devices: pushes, and responses for connections that did not ask but listen.
//!
//! Every replica hears the gateway's service-wide subject; whoever holds the endpoint delivers. A response that another
//! replica forwarded carries a header with that replica's id, and is for subscribers only.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{HeaderMap, Message};
use bytes::Bytes;
use ids::{EndpointId, InstanceName, RequestId};
use ism::elce;
use ism::esp::{self, DeliveryReport, ExtensionData};
use ism::{Envelope as _, Record as _, subject};
use kp1::Outcome;
use runtime::now_ms;
use tokio::sync::Semaphore;

use crate::connection::{Connection, ConnectionId};
use crate::endpoints::Elsewhere;
use crate::gateway::Gateway;
use crate::identity::Identity;
use crate::notices::Notice;
use crate::outbox::{Outgoing, Qos, Receipt};
use crate::relay;
use crate::uplink;

/// The header that tells who forwarded a response.
const FORWARDED_BY: &str = "Bandar-Forwarded-By";
/// Pushes whose acknowledgement is awaited; the senders of more learn nothing and try again.
const AWAITED_MAX: usize = 65_536;

/// How a message came: decides what is said when the endpoint is not here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// To this replica: the sender is told.
    Replica,
    /// To all replicas: only the one that holds the endpoint speaks.
    Service,
}

/// Delivers what comes from NATS.
pub(crate) struct Downlink {
    gateway: Arc<Gateway>,
    awaited: Arc<Semaphore>,
}

impl Downlink {
    pub(crate) fn new(gateway: Arc<Gateway>) -> Self {
        Self { gateway, awaited: Arc::new(Semaphore::new(AWAITED_MAX)) }
    }

    /// A message on the subject that all replicas hear.
    pub(crate) fn to_service(&self, message: Message) {
        if let Some(data) = read(&message) {
            self.deliver(message, data, Scope::Service);
        }
    }

    /// A message to this replica that answers no waiting request.
    pub(crate) fn to_replica(&self, message: Message) {
        if let Some(slot) = subject::parse_reply(&message.subject) {
            let is_data = slot.message_type == esp::EXTENSION_DATA.message_type && message.status.is_none();
            return self.to_slot(message, is_data);
        }
        match message.subject.rsplit_once('.').map(|(_, message_type)| message_type) {
            Some(message_type) if message_type == esp::EXTENSION_DATA.message_type => {
                if let Some(data) = read(&message) {
                    self.deliver(message, data, Scope::Replica);
                }
            }
            Some(message_type) if message_type == elce::CONNECTED_HERE_TOO.message_type => {
                self.gateway.learn_shared(&message.payload)
            }
            _ => tracing::warn!(subject = %message.subject, "a message to this replica has no meaning here"),
        }
    }

    /// A message where a request of ours was to be answered, and nobody waits any more. Either it is the answer and has
    /// come too late: the device has been told, and may have sent again. Or the extension pushes to where it last
    /// heard from the endpoint, the session affinity of 3/ISM; then its correlation id is not ours.
    fn to_slot(&self, message: Message, is_data: bool) {
        let late = || self.gateway.metrics.expired();
        if !is_data {
            return late();
        }
        match read(&message) {
            Some(data) if self.gateway.relay.correlation_ids.made(&data.correlation_id) => late(),
            Some(data) => self.deliver(message, data, Scope::Replica),
            None => {}
        }
    }

    fn deliver(&self, message: Message, data: ExtensionData, scope: Scope) {
        let forwarded_by = message.headers.as_ref().and_then(|headers| headers.get(FORWARDED_BY));
        if forwarded_by.is_some_and(|replica| replica.as_str() == self.gateway.replica.as_str()) {
            return;
        }
        if relay::is_late(&data) {
            return self.gateway.metrics.expired();
        }
        let endpoint = data.endpoint_id.as_deref().and_then(|id| EndpointId::parse(id).ok());
        let Some(endpoint) = endpoint else {
            let correlation_id = &data.correlation_id;
            return tracing::warn!(correlation_id, "a message for a device names no endpoint; it is dropped");
        };
        if forwarded_by.is_some() || data.request_id.is_some() {
            self.gateway.tell_subscribers(&endpoint, &data);
        } else {
            self.push(&endpoint, data, message.reply.map(|reply| reply.to_string()), scope);
        }
    }

    /// Delivers a push to every connection of the endpoint, subscribed or not, and reports to its sender.
    fn push(&self, endpoint: &EndpointId, data: ExtensionData, reply: Option<String>, scope: Scope) {
        let gateway = &self.gateway;
        let connections = gateway.connections.endpoints.of(endpoint);
        let (receipt, told) = Receipt::new();
        let (outcome, payload) = uplink::response(&data);
        let mut taken = false;
        for connection in connections {
            let Some((topic, identity)) = push_topic(&connection, endpoint, &data, outcome) else { continue };
            let receipt = reply.is_some().then(|| receipt.clone());
            let (qos, payload) = (Qos::AtLeastOnce, payload.clone());
            let bytes = payload.len();
            if connection.send(Outgoing { topic, payload, qos, correlation_data: None, receipt }) {
                taken = true;
                identity.traffic.sent(bytes);
            }
        }
        // From now on only those hold it that may still deliver.
        drop(receipt);
        if !taken {
            gateway.metrics.push("not_here");
            if scope == Scope::Replica {
                gateway.report(reply, &data, 404, "the endpoint is not connected to this replica");
            }
            return;
        }
        let Some(reply) = reply else { return gateway.metrics.push("delivered") };
        let Ok(awaited) = self.awaited.clone().try_acquire_owned() else { return };
        let longest = Duration::from_millis(gateway.config.push_deadline_ms);
        let patience = data.remaining(now_ms()).map_or(longest, |left| left.min(longest));
        let gateway = gateway.clone();
        tokio::spawn(async move {
            let _awaited = awaited;
            match tokio::time::timeout(patience, told).await {
                Ok(Ok(())) => {
                    gateway.metrics.push("delivered");
                    gateway.report(Some(reply), &data, 200, "");
                }
                Ok(Err(_)) => {
                    gateway.metrics.push("failed");
                    if scope == Scope::Replica {
                        gateway.report(
                            Some(reply),
                            &data,
                            404,
                            "the endpoint disconnected before it had the message",
                        );
                    }
                }
                Err(_) => {
                    gateway.metrics.push("failed");
                    gateway.report(Some(reply), &data, 504, "the device did not acknowledge in time");
                }
            }
        });
    }
}

impl Gateway {
    fn report(&self, reply: Option<String>, data: &ExtensionData, status_code: i32, reason: &str) {
        let Some(reply) = reply else { return };
        let report = DeliveryReport {
            correlation_id: data.correlation_id.clone(),
            timestamp: now_ms(),
            timeout: 0,
            status_code,
            reason_phrase: (!reason.is_empty()).then(|| reason.to_owned()),
        };
        self.notices.publish(reply, report.encode());
    }

    /// Hands a response to those that did not ask but may listen, here and on other replicas. `bytes` are the encoded
    /// data when they are at hand.
    pub(crate) fn tell_listeners(
        &self,
        endpoint: &EndpointId,
        asker: Option<ConnectionId>,
        extension: &InstanceName,
        data: &ExtensionData,
        bytes: Option<Bytes>,
        qos: Qos,
    ) {
        let (here, elsewhere) = self.connections.endpoints.listeners(endpoint, asker);
        for connection in here {
            self.tell_subscriber(&connection, endpoint, extension, data, qos);
        }
        let subjects = match elsewhere {
            Elsewhere::Nobody => return,
            Elsewhere::Everybody => vec![esp::EXTENSION_DATA.service(&self.instance)],
            Elsewhere::Replicas(replicas) => {
                replicas.iter().map(|replica| esp::EXTENSION_DATA.replica(replica)).collect()
            }
        };
        let payload = bytes.unwrap_or_else(|| data.encode());
        for subject in subjects {
            let mut headers = HeaderMap::new();
            headers.insert(FORWARDED_BY, self.replica.as_str());
            self.notices.send(Notice { subject, headers: Some(headers), payload: payload.clone() });
        }
    }

    /// Hands a response from elsewhere to the connections here that subscribed to it.
    fn tell_subscribers(&self, endpoint: &EndpointId, data: &ExtensionData) {
        let Some(Ok(extension)) = data.extension_instance_name.as_deref().map(InstanceName::parse) else {
            return;
        };
        let (here, _) = self.connections.endpoints.listeners(endpoint, None);
        for connection in here {
            self.tell_subscriber(&connection, endpoint, &extension, data, Qos::AtLeastOnce);
        }
    }

    fn tell_subscriber(
        &self,
        connection: &Arc<Connection>,
        endpoint: &EndpointId,
        extension: &InstanceName,
        data: &ExtensionData,
        qos: Qos,
    ) {
        let (outcome, payload) = uplink::response(data);
        let request_id = data.request_id.and_then(|id| RequestId::try_from(id).ok());
        for attachment in connection.attachments(endpoint) {
            let (version, token) = (&attachment.app_version, &attachment.identity.token);
            let topic = kp1::topic(version, extension, Some(token), &data.resource_path, request_id, outcome);
            let Ok(topic) = topic else { continue };
            let Some(granted) = connection.subscribed(&topic) else { continue };
            let (topic, qos, payload) = (topic.into(), granted.min(qos), payload.clone());
            let bytes = payload.len();
            if connection.send(Outgoing { topic, payload, qos, correlation_data: None, receipt: None }) {
                self.metrics.response("subscriber");
                attachment.identity.traffic.sent(bytes);
            }
        }
    }
}

fn read(message: &Message) -> Option<ExtensionData> {
    ExtensionData::decode(&message.payload)
        .inspect_err(|error| tracing::warn!(%error, "a message for a device cannot be read; it is dropped"))
        .ok()
}

/// The topic of a push as the connection knows the endpoint: with the token that it used last, and whose that is.
fn push_topic(
    connection: &Connection,
    endpoint: &EndpointId,
    data: &ExtensionData,
    outcome: Outcome,
) -> Option<(Arc<str>, Arc<Identity>)> {
    let extension = InstanceName::parse(data.extension_instance_name.as_deref()?).ok()?;
    let attachment = connection.attachments(endpoint).pop()?;
    let (version, token) = (&attachment.app_version, &attachment.identity.token);
    let topic = kp1::topic(version, &extension, Some(token), &data.resource_path, None, outcome);
    let topic = topic
        .inspect_err(|error| tracing::warn!(%extension, %error, "a push has no valid topic; it is dropped"))
        .ok()?;
    Some((Arc::from(topic), attachment.identity))
}
