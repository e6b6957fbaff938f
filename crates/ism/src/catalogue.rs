//! The table of all messages.

use bytes::Bytes;

use crate::subject::{Event, GroupedEvent, Message, join};
use crate::{
    DecodeError, Record, auth, authorities, cap, cip, commands, config, dstp, ecap, efe, efmp, elce, eme,
    endpoints, epmmp, esp, scmp, session, tle, tokens, topics, tstp,
};

/// Where a type of message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Address {
    /// To a service instance.
    Service(Message),
    /// To a replica.
    Replica(Message),
    /// To a replica, as the answer to its request.
    Reply(Message),
    /// To a service instance, in the sender's name.
    ServiceBy(Message),
    /// To a replica, in the sender's name.
    ReplicaBy(Message),
    /// To a replica, as the answer to its request, in the name of who was asked.
    ReplyBy(Message),
    /// To whoever listens.
    Event(Event),
    /// To whoever listens, with a last token that says what it is about.
    EventAbout(Event, &'static str),
    /// To whoever listens, with a group that is the id of what it is about.
    GroupedEvent(GroupedEvent, &'static str),
}

const SENDER: &str = "<senderServiceInstanceName>";

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
            Self::ServiceBy(Message { protocol, message_type }) => {
                join(["kaa.v1.service.<serviceInstanceName>", protocol, SENDER, message_type])
            }
            Self::ReplicaBy(Message { protocol, message_type }) => {
                join(["kaa.v1.replica.<replicaId>", protocol, SENDER, message_type])
            }
            Self::ReplyBy(Message { protocol, message_type }) => {
                join(["kaa.v1.replica.<replicaId>", protocol, SENDER, "<slot>", message_type])
            }
            Self::Event(event) => event.pattern("<originatorServiceInstanceName>"),
            Self::EventAbout(event, about) => {
                format!("{}.<{about}>", event.pattern("<originatorServiceInstanceName>"))
            }
            Self::GroupedEvent(event, group) => {
                event.pattern("<originatorServiceInstanceName>", &format!("<{group}>"))
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

use Address::{
    Event as On, EventAbout as OnEach, GroupedEvent as OnEachOf, Replica as ToReplica,
    ReplicaBy as ToReplicaBy, Reply, ReplyBy, Service as To, ServiceBy as ToBy,
};

catalogue! {
    esp::ClientData => [To(esp::CLIENT_DATA)];
    esp::ExtensionData => [
        ReplyBy(esp::EXTENSION_DATA), ToReplicaBy(esp::EXTENSION_DATA), ToBy(esp::EXTENSION_DATA),
        ToReplica(esp::EXTENSION_DATA), To(esp::EXTENSION_DATA),
        ToReplica(esp::FORWARDED_DATA), To(esp::FORWARDED_DATA)
    ];
    esp::DeliveryReport => [Reply(esp::DELIVERY_REPORT)];
    elce::ConnectedEvent => [On(elce::CONNECTED), ToReplica(elce::CONNECTED_HERE_TOO), To(elce::CONNECTED_HERE_TOO)];
    elce::DisconnectedEvent => [On(elce::DISCONNECTED)];
    elce::RegisteredEvent => [On(elce::REGISTERED)];
    elce::AppVersionUpdatedEvent => [On(elce::APP_VERSION_UPDATED)];
    elce::UnregisteredEvent => [On(elce::UNREGISTERED)];
    elce::TrafficReportEvent => [On(elce::TRAFFIC_REPORT)];
    cip::CommandInvocationRequest => [To(cip::COMMAND_REQUEST)];
    cip::CommandInvocationResult => [Reply(cip::COMMAND_RESULT)];
    dstp::DataSamplesEvent => [On(dstp::DATA_SAMPLES_RECEIVED)];
    dstp::DataSamplesProcessed => [Reply(dstp::DATA_SAMPLES_PROCESSED)];
    tstp::TimeSeriesEvent => [OnEach(tstp::DATA_POINTS_RECEIVED, "timeSeriesName")];
    tstp::TimeSeriesProcessed => [Reply(tstp::TIME_SERIES_PROCESSED)];
    eme::MetadataUpdatedEvent => [On(eme::METADATA_UPDATED)];
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
    efe::EndpointFilterActivatedEvent => [OnEachOf(efe::ACTIVATED, "filterId")];
    efe::EndpointFilterPendingEvent => [OnEachOf(efe::PENDING, "filterId")];
    efe::EndpointFilterDeletedEvent => [OnEachOf(efe::DELETED, "filterId")];
    efe::EndpointMatchedFilterEvent => [OnEachOf(efe::EP_MATCHED, "filterId")];
    efe::EndpointUnmatchedFilterEvent => [OnEachOf(efe::EP_UNMATCHED, "filterId")];
    epmmp::EndpointMetadataGetRequest => [To(epmmp::EP_METADATA_GET_REQUEST)];
    epmmp::EndpointMetadataGetResponse => [Reply(epmmp::EP_METADATA_GET_RESPONSE)];
    epmmp::EndpointMetadataPatchRequest => [To(epmmp::EP_METADATA_PATCH_REQUEST)];
    epmmp::EndpointMetadataPatchResponse => [Reply(epmmp::EP_METADATA_PATCH_RESPONSE)];
    epmmp::EndpointMetadataKeyUpdateRequest => [To(epmmp::EP_METADATA_KEY_UPDATE_REQUEST)];
    epmmp::EndpointMetadataKeyUpdateResponse => [Reply(epmmp::EP_METADATA_KEY_UPDATE_RESPONSE)];
    epmmp::EndpointMetadataKeyBatchUpdateRequest => [To(epmmp::EP_METADATA_KEY_BATCH_UPDATE_REQUEST)];
    epmmp::EndpointMetadataKeyBatchUpdateResponse => [Reply(epmmp::EP_METADATA_KEY_BATCH_UPDATE_RESPONSE)];
    epmmp::EndpointMetadataKeysGetRequest => [To(epmmp::EP_METADATA_KEYS_GET_REQUEST)];
    epmmp::EndpointMetadataKeysGetResponse => [Reply(epmmp::EP_METADATA_KEYS_GET_RESPONSE)];
    epmmp::AppVersionsByEndpointsRequest => [To(epmmp::EP_APP_VERSION_GET_REQUEST)];
    epmmp::AppVersionsByEndpointsResponse => [Reply(epmmp::EP_APP_VERSION_GET_RESPONSE)];
    efmp::EndpointFiltersRequest => [To(efmp::EP_FILTERS_REQUEST)];
    efmp::EndpointFiltersResponse => [Reply(efmp::EP_FILTERS_RESPONSE)];
    efmp::EndpointListByFilterRequest => [To(efmp::EP_LIST_BY_FILTER_REQUEST)];
    efmp::EndpointListByFilterResponse => [Reply(efmp::EP_LIST_BY_FILTER_RESPONSE)];
    tle::UpdatedEvent => [On(tle::UPDATED)];
    tle::UnregisteredEvent => [On(tle::UNREGISTERED)];
    cap::ClientBasicAuthenticationRequest => [To(cap::BASIC_REQUEST)];
    cap::ClientBasicAuthenticationResponse => [Reply(cap::BASIC_RESPONSE)];
    cap::ClientCertificateAuthenticationRequest => [To(cap::CERTIFICATE_REQUEST)];
    cap::ClientCertificateAuthenticationResponse => [Reply(cap::CERTIFICATE_RESPONSE)];
    cap::ClientCredentialsRevokedEvent => [On(cap::BASIC_REVOKED), On(cap::CERTIFICATE_REVOKED)];
    auth::AuthenticationRequest => [To(auth::AUTHENTICATE_REQUEST)];
    auth::AuthenticationResponse => [Reply(auth::AUTHENTICATE_RESPONSE)];
    auth::AccessChangedEvent => [On(auth::ACCESS_CHANGED)];
    authorities::AuthoritiesRequest => [To(authorities::AUTHORITIES_REQUEST)];
    authorities::AuthoritiesResponse => [Reply(authorities::AUTHORITIES_RESPONSE)];
    authorities::AuthoritiesChangedEvent => [On(authorities::AUTHORITIES_CHANGED)];
    config::ConfigurationRequest => [To(config::CONFIGURATION_REQUEST)];
    config::ConfigurationResponse => [Reply(config::CONFIGURATION_RESPONSE)];
    config::ServiceInstanceAnnouncement => [To(config::SERVICE_INSTANCE_ANNOUNCEMENT)];
    config::ServiceInstanceAnnouncementResponse => [Reply(config::SERVICE_INSTANCE_ANNOUNCEMENT_RESPONSE)];
    tokens::EndpointTokenCreateRequest => [To(tokens::CREATE_REQUEST)];
    tokens::EndpointTokenCreateResponse => [Reply(tokens::CREATE_RESPONSE)];
    tokens::EndpointTokensDeleteRequest => [To(tokens::DELETE_REQUEST)];
    tokens::EndpointTokensDeleteResponse => [Reply(tokens::DELETE_RESPONSE)];
    endpoints::EndpointGetRequest => [To(endpoints::GET_REQUEST)];
    endpoints::EndpointGetResponse => [Reply(endpoints::GET_RESPONSE)];
    session::ClientConnectedEvent => [On(session::CLIENT_CONNECTED), To(session::CLIENT_ANNOUNCED)];
    session::ReplicaAliveEvent => [On(session::REPLICA_ALIVE)];
    commands::CommandsChangedEvent => [On(commands::CHANGED)];
    topics::TopicSubscribeRequest => [To(topics::SUBSCRIBE_REQUEST)];
    topics::TopicSubscribeResponse => [ReplyBy(topics::SUBSCRIBE_RESPONSE)];
    topics::TopicPublishRequest => [To(topics::PUBLISH_REQUEST)];
    topics::TopicPublishResponse => [ReplyBy(topics::PUBLISH_RESPONSE)];
    topics::TopicMessage => [ToBy(topics::MESSAGE)];
    topics::TopicDeliveryReport => [Reply(topics::DELIVERY_REPORT)];
}
