//! The table of all messages.

use bytes::Bytes;

use crate::subject::{Event, Message, join};
use crate::{DecodeError, Record, config, dstp, ecap, elce, endpoints, esp, scmp, session, tokens, tstp};

/// Where a type of message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Address {
    /// To a service instance.
    Service(Message),
    /// To a replica.
    Replica(Message),
    /// To a replica, as the answer to its request.
    Reply(Message),
    /// To whoever listens.
    Event(Event),
    /// To whoever listens, with a last token that says what it is about.
    EventAbout(Event, &'static str),
}

impl Address {
    /// The subject with its variable tokens in angle brackets.
    #[must_use]
    pub fn pattern(self) -> String {
        match self {
            Self::Service(Message { protocol, message_type }) => {
                join(["kaa.v1.service.<serviceInstanceName>", protocol, message_type])
            }
            Self::Replica(Message { protocol, message_type }) => {
                join(["kaa.v1.replica.<replicaId>", protocol, message_type])
            }
            Self::Reply(Message { protocol, message_type }) => {
                join(["kaa.v1.replica.<replicaId>", protocol, "<slot>", message_type])
            }
            Self::Event(event) => event.pattern("<originatorServiceInstanceName>"),
            Self::EventAbout(event, about) => {
                format!("{}.<{about}>", event.pattern("<originatorServiceInstanceName>"))
            }
        }
    }
}

/// A type of message.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// The protocol, which is also the directory of its schemas.
    pub protocol: &'static str,
    /// [`Record::NAME`].
    pub record: &'static str,
    /// [`Record::SCHEMA`].
    pub schema: &'static str,
    /// [`Record::FIELDS`].
    pub fields: &'static [&'static str],
    /// Where it goes.
    pub addresses: &'static [Address],
    /// Decodes a message and encodes it again.
    pub recode: fn(&Bytes) -> Result<Bytes, DecodeError>,
}

fn recode<T: Record>(bytes: &Bytes) -> Result<Bytes, DecodeError> {
    T::decode(bytes).map(|record| record.encode())
}

/// One line per message: its module, its record, where it goes.
macro_rules! catalogue {
    ($($protocol:ident::$record:ident => [$($address:expr),+];)*) => {
        /// All messages, by protocol.
        pub const CATALOGUE: &[Entry] = &[$(Entry {
            protocol: stringify!($protocol),
            record: <$protocol::$record as Record>::NAME,
            schema: <$protocol::$record as Record>::SCHEMA,
            fields: <$protocol::$record as Record>::FIELDS,
            addresses: &[$($address),+],
            recode: recode::<$protocol::$record>,
        }),*];
    };
}

use Address::{Event as On, EventAbout as OnEach, Replica as ToReplica, Reply, Service as To};

catalogue! {
    esp::ClientData => [To(esp::CLIENT_DATA)];
    esp::ExtensionData => [Reply(esp::EXTENSION_DATA), ToReplica(esp::EXTENSION_DATA), To(esp::EXTENSION_DATA)];
    esp::DeliveryReport => [Reply(esp::DELIVERY_REPORT)];
    elce::ConnectedEvent => [On(elce::CONNECTED), ToReplica(elce::CONNECTED_HERE_TOO), To(elce::CONNECTED_HERE_TOO)];
    elce::DisconnectedEvent => [On(elce::DISCONNECTED)];
    elce::RegisteredEvent => [On(elce::REGISTERED)];
    elce::AppVersionUpdatedEvent => [On(elce::APP_VERSION_UPDATED)];
    elce::UnregisteredEvent => [On(elce::UNREGISTERED)];
    elce::TrafficReportEvent => [On(elce::TRAFFIC_REPORT)];
    dstp::DataSamplesEvent => [On(dstp::DATA_SAMPLES_RECEIVED)];
    dstp::DataSamplesProcessed => [Reply(dstp::DATA_SAMPLES_PROCESSED)];
    tstp::TimeSeriesEvent => [OnEach(tstp::DATA_POINTS_RECEIVED, "timeSeriesName")];
    tstp::TimeSeriesProcessed => [Reply(tstp::TIME_SERIES_PROCESSED)];
    ecap::EndpointTokenValidationRequest => [To(ecap::EP_TOKEN_REQUEST)];
    ecap::EndpointTokenValidationResponse => [Reply(ecap::EP_TOKEN_RESPONSE)];
    ecap::EndpointTokenStatusTransitionRequest => [To(ecap::EP_TOKEN_STATUS_TRANSITION_REQUEST)];
    ecap::EndpointTokenStatusTransitionResponse => [Reply(ecap::EP_TOKEN_STATUS_TRANSITION_RESPONSE)];
    ecap::EndpointTokenRevokedEvent => [On(ecap::EP_TOKEN_REVOKED)];
    ecap::ClientUsernamePasswordValidationRequest => [To(ecap::CLIENT_USERNAME_PASSWORD_REQUEST)];
    ecap::ClientUsernamePasswordValidationResponse => [Reply(ecap::CLIENT_USERNAME_PASSWORD_RESPONSE)];
    ecap::ClientCertificateValidationRequest => [To(ecap::CLIENT_CERTIFICATE_REQUEST)];
    ecap::ClientCertificateValidationResponse => [Reply(ecap::CLIENT_CERTIFICATE_RESPONSE)];
    ecap::ClientCredentialRevokedEvent => [On(ecap::CLIENT_CREDENTIAL_REVOKED)];
    scmp::BroadcastConfigurationUpdateEvent => [On(scmp::UPSERTED), On(scmp::DELETED)];
    scmp::ServiceSpecificConfigurationUpdateEvent => [To(scmp::UPSERT), To(scmp::DELETE)];
    config::ConfigurationRequest => [To(config::CONFIGURATION_REQUEST)];
    config::ConfigurationResponse => [Reply(config::CONFIGURATION_RESPONSE)];
    tokens::EndpointTokenCreateRequest => [To(tokens::CREATE_REQUEST)];
    tokens::EndpointTokenCreateResponse => [Reply(tokens::CREATE_RESPONSE)];
    endpoints::EndpointGetRequest => [To(endpoints::GET_REQUEST)];
    endpoints::EndpointGetResponse => [Reply(endpoints::GET_RESPONSE)];
    session::ClientConnectedEvent => [On(session::CLIENT_CONNECTED), To(session::CLIENT_ANNOUNCED)];
}
