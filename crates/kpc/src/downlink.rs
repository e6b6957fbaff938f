//! Messages from extensions to devices: pushes, and responses for connections that did not ask but listen.
//!
//! Every replica hears the gateway's service-wide subjects; whoever holds the endpoint delivers. What an extension sends comes at a
//! subject with its name, which must be the name in the message: NATS lets it publish at no other. A response that another
//! replica forwarded comes at a subject of the gateway's own, carries a header with that replica's id, and is for subscribers only.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{HeaderMap, Message};
use bytes::Bytes;
use ids::{EndpointId, InstanceName, RequestId};
use ism::elce;
use ism::esp::{self, DeliveryReport, ExtensionData};
use ism::subject::Message as MessageType;
use ism::{Envelope as _, Record as _, subject};
use kp1::Outcome;
use runtime::{Context, now_ms};
use tokio::time::Instant;

use crate::announcements::{Announcement, Announcements};
use crate::connection::{Connection, ConnectionId};
use crate::endpoints::Elsewhere;
use crate::gateway::Gateway;
use crate::identity::Identity;
use crate::notices::Notice;
use crate::outbox::{Fate, Outgoing, Qos, Receipt};
use crate::places::Places;
use crate::relay;
use crate::uplink;

/// The header that tells who forwarded a response.
const FORWARDED_BY: &str = "Bandar-Forwarded-By";
/// Pushes whose acknowledgement is awaited, in all and of one extension; the senders of more learn nothing and try again.
const AWAITED_MAX: usize = 65_536;
const AWAITED_PER_EXTENSION_MAX: usize = AWAITED_MAX / 4;

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
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) awaited: Places<Arc<str>>,
    pub(crate) announcements: Announcements,
    /// Where messages come to this replica. NATS checks who may speak where, so what they mean is decided by the whole subject.
    here: Here,
}

/// Subjects of this replica.
struct Here {
    /// What those of 4/ESP begin with.
    esp: String,
    forwarded: String,
    shared: String,
    /// RFC 4's own, without a sender: of this replica and of all together.
    nameless: [String; 2],
}

impl Here {
    fn of(gateway: &Gateway) -> Self {
        let replica = &gateway.replica;
        Self {
            esp: format!("kaa.v1.replica.{replica}.{}.", esp::PROTOCOL),
            forwarded: esp::FORWARDED_DATA.replica(replica),
            shared: elce::CONNECTED_HERE_TOO.replica(replica),
            nameless: [esp::EXTENSION_DATA.replica(replica), esp::EXTENSION_DATA.service(&gateway.instance)],
        }
    }

    /// Whether a message comes from the extension that it names.
    fn is_true(&self, subject: &str, claimed: Option<&str>) -> bool {
        self.nameless.iter().any(|nameless| nameless == subject)
            || claimed.is_some() && subject::sender(subject) == claimed
    }
}

impl Downlink {
    /// The downlink, and the task that it needs.
    pub(crate) fn new(
        gateway: Arc<Gateway>,
        context: &Context,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (announcements, announcing) = Announcements::new(context.clone());
        let awaited = Places::new(AWAITED_MAX, AWAITED_PER_EXTENSION_MAX);
        let here = Here::of(&gateway);
        (Self { gateway, awaited, announcements, here }, announcing)
    }

    /// A message at the subjects of extensions that all replicas hear.
    pub(crate) fn to_service(&self, message: Message) {
        if let Some(data) = read(&message) {
            self.deliver(message, data, Scope::Service);
        }
    }

    /// A response that another replica forwarded to all.
    pub(crate) fn forwarded(&self, message: &Message) {
        let forwarded_by = message.headers.as_ref().and_then(|headers| headers.get(FORWARDED_BY));
        if forwarded_by.is_some_and(|replica| replica.as_str() == self.gateway.replica.as_str()) {
            return;
        }
        if let Some((endpoint, data)) = read(message).and_then(|data| self.timely(data)) {
            self.gateway.tell_subscribers(&endpoint, &data);
        }
    }

    /// A message to this replica that answers no waiting request.
    pub(crate) fn to_replica(&self, message: Message) {
        if message.status.is_some() {
            // Nobody listened to a request that nobody waits for any more.
            return self.gateway.metrics.expired();
        }
        let subject = message.subject.as_str();
        if subject == self.here.forwarded {
            self.forwarded(&message);
        } else if subject == self.here.shared {
            self.gateway.learn_shared(&message.payload);
        } else if self.is_extension_data(subject) {
            if let Some(data) = read(&message) {
                self.to_holder(message, data);
            }
        } else if subject::parse_reply(subject).is_some() {
            self.gateway.metrics.expired();
        } else {
            tracing::warn!(%subject, "a message to this replica has no meaning here; it is dropped");
        }
    }

    fn is_extension_data(&self, subject: &str) -> bool {
        let end = subject.strip_prefix(&self.here.esp).and_then(|rest| rest.rsplit('.').next());
        end == Some(esp::EXTENSION_DATA.message_type)
    }

    /// A push to this replica, or a message where a request of ours was to be answered, and nobody waits any more. The latter either
    /// is the answer and has come too late: the device has been told, and may have sent again. Or the extension pushes to
    /// where it last heard from the endpoint, the session affinity of 3/ISM; then its correlation id is not ours.
    fn to_holder(&self, message: Message, data: ExtensionData) {
        let is_at_slot = subject::parse_reply(&message.subject).is_some_and(|slot| slot.sender.is_some());
        if is_at_slot && self.gateway.relay.correlation_ids.made(&data.correlation_id) {
            return self.gateway.metrics.expired();
        }
        self.deliver(message, data, Scope::Replica);
    }

    fn deliver(&self, message: Message, data: ExtensionData, scope: Scope) {
        let (subject, claimed) = (&message.subject, data.extension_instance_name.as_deref());
        if !self.here.is_true(subject, claimed) {
            return tracing::warn!(%subject, claimed, "a message for a device names another extension than its subject; it is dropped");
        }
        let Some((endpoint, data)) = self.timely(data) else { return };
        if data.request_id.is_some() {
            self.gateway.tell_subscribers(&endpoint, &data);
        } else {
            let Ok(reply) = report_subject(message.reply, esp::DELIVERY_REPORT) else { return };
            self.push(&endpoint, data, reply, scope);
        }
    }

    /// The message and whom it is for, unless it comes too late or is for nobody.
    fn timely(&self, data: ExtensionData) -> Option<(EndpointId, ExtensionData)> {
        if relay::is_late(&data) {
            self.gateway.metrics.expired();
            return None;
        }
        let endpoint = data.endpoint_id.as_deref().and_then(|id| EndpointId::parse(id).ok());
        let Some(endpoint) = endpoint else {
            let correlation_id = &data.correlation_id;
            tracing::warn!(correlation_id, "a message for a device names no endpoint; it is dropped");
            return None;
        };
        Some((endpoint, data))
    }

    /// Delivers a push to every connection of the endpoint, subscribed or not, and reports to its sender.
    fn push(&self, endpoint: &EndpointId, data: ExtensionData, reply: Option<String>, scope: Scope) {
        let gateway = &self.gateway;
        let longest = Duration::from_millis(gateway.config.push_deadline_ms);
        let patience = data.remaining(now_ms()).map_or(longest, |left| left.min(longest));
        let deadline = Instant::now() + patience;
        let (outcome, payload) = uplink::response(&data);
        let holders = gateway.connections.endpoints.of(endpoint).into_iter().filter_map(|connection| {
            let (topic, identity) = push_topic(&connection, endpoint, &data, outcome)?;
            Some((connection, topic, identity))
        });
        let holders: Vec<_> = holders.collect();
        if holders.is_empty() {
            gateway.metrics.push("not_here");
            if scope == Scope::Replica {
                let reason = "the endpoint is not connected to this replica";
                gateway.report(reply.as_deref(), &data, 404, reason);
            }
            return;
        }
        let (receipt, told) = Receipt::new();
        let receipt = reply.is_some().then_some(receipt);
        let write = move || {
            for (connection, topic, identity) in holders {
                let message = Outgoing {
                    deadline: Some(deadline),
                    receipt: receipt.clone(),
                    ..Outgoing::new(topic, payload.clone(), Qos::AtLeastOnce)
                };
                if connection.send(message) {
                    identity.traffic.sent(payload.len());
                }
            }
            // From now on only those hold the receipt that may still deliver.
        };
        let Some(reply) = reply else {
            write();
            return gateway.metrics.push("delivered");
        };
        let extension = data.extension_instance_name.as_deref().unwrap_or_default();
        let Some(awaited) = self.awaited.enter(extension.into()) else {
            // What cannot be reported is not begun: its sender takes silence for an endpoint that is not here.
            return gateway.metrics.push("failed");
        };
        let report = report(&data, 102, "");
        match scope {
            Scope::Service => {
                let (subject, write) = (reply.clone(), Box::new(write));
                self.announcements.begin(Announcement { subject, report, write });
            }
            // Of silence its sender concludes nothing; this saves it a doubt.
            Scope::Replica => {
                gateway.notices.publish(reply.clone(), report);
                write();
            }
        }
        let gateway = gateway.clone();
        tokio::spawn(async move {
            let _awaited = awaited;
            let fate = told.until(deadline).await;
            gateway.metrics.push(if fate == Fate::Delivered { "delivered" } else { "failed" });
            let (status_code, reason) = match fate {
                Fate::Delivered => (200, ""),
                Fate::NeverWritten => (404, "the push could not be written to the device"),
                Fate::Unacknowledged => (504, "the device did not acknowledge"),
            };
            gateway.report(Some(&reply), &data, status_code, reason);
        });
    }
}

/// Where a message's sender wants a report. NATS lets him name any subject, and it is the gateway, which may do more, that
/// would speak there: so none but those where such reports are awaited.
pub(crate) fn report_subject(
    reply: Option<async_nats::Subject>,
    report: MessageType,
) -> Result<Option<String>, ()> {
    let Some(reply) = reply else { return Ok(None) };
    let mut tokens = reply.strip_prefix("kaa.v1.replica.").unwrap_or_default().split('.').skip(1);
    let is_in_protocol = tokens.next() == Some(report.protocol);
    let (number, last) = (tokens.next(), tokens.next());
    let is_report = is_in_protocol && tokens.next().is_none() && last.or(number) == Some(report.message_type);
    // Extensions written for Kaa may have inboxes as NATS's clients make them; the platform's services have others.
    if is_report || reply.starts_with("_INBOX.") {
        return Ok(Some(reply.to_string()));
    }
    tracing::warn!(%reply, "a message for a client wants its report where none may go; it is dropped");
    Err(())
}

fn report(data: &ExtensionData, status_code: i32, reason: &str) -> Bytes {
    let report = DeliveryReport {
        correlation_id: data.correlation_id.clone(),
        timestamp: now_ms(),
        timeout: 0,
        status_code,
        reason_phrase: (!reason.is_empty()).then(|| reason.to_owned()),
    };
    report.encode()
}

impl Gateway {
    fn report(&self, reply: Option<&str>, data: &ExtensionData, status_code: i32, reason: &str) {
        if let Some(reply) = reply {
            self.notices.publish(reply.to_owned(), report(data, status_code, reason));
        }
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
            Elsewhere::Everybody => vec![esp::FORWARDED_DATA.service(&self.instance)],
            Elsewhere::Replicas(replicas) => {
                replicas.iter().map(|replica| esp::FORWARDED_DATA.replica(replica)).collect()
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
            if connection.send(Outgoing::new(topic, payload, qos)) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_go_where_reports_are_awaited_and_nowhere_else() {
        let goes = |reply: &str| {
            let reply = Some(async_nats::Subject::from(reply.to_owned()));
            report_subject(reply, esp::DELIVERY_REPORT).is_ok()
        };
        for reply in [
            "kaa.v1.replica.cex-0.esp.42.DeliveryReport",
            "kaa.v1.replica.cex-0.esp.DeliveryReport",
            "_INBOX.abc.1",
        ] {
            assert!(goes(reply), "{reply}");
        }
        for reply in [
            "kaa.v1.events.kpc.endpoint.connectivity.connected",
            "kaa.v1.service.dcx.esp.ClientData",
            "kaa.v1.replica.kpc-0.esp.ForwardedData",
            "kaa.v1.replica.kpc-0.esp.1.ForwardedData",
            "kaa.v1.replica.kpc-0.elce.1.DeliveryReport",
            "kaa.v1.replica.kpc-0.esp.1.2.DeliveryReport",
            "kaa.v1.replica.kpc-0.esp.DeliveryReport.1",
            "$JS.API.STREAM.DELETE.KV_extensions",
            "_INBOX_cex.1",
        ] {
            assert!(!goes(reply), "{reply}");
        }
    }
}
