//! Inter-service messages (3/ISM): what services say to each other over NATS, and where.
//!
//! Every message is a [`Record`]: a struct with the names, types and order of its Avro schema in `proto-schemas/avro`,
//! and so with the bytes that any other implementation of the protocol writes. Where it goes is a [`subject::Message`]
//! (to a service or replica) or a [`subject::Event`] (to whoever listens): `esp::CLIENT_DATA.service(&instance)`,
//! `ecap::EP_TOKEN_REVOKED.of_any()`. One module per protocol holds both; the records stand at the root too,
//! but for those of [`tle`]:
//!
//! | module | protocol | what for |
//! |---|---|---|
//! | [`esp`] | 4/ESP | gateway and extensions |
//! | [`elce`] | 9/ELCE | endpoints come, go, change; traffic |
//! | [`cip`] | 12/CIP | invoking commands |
//! | [`dstp`] | 13/DSTP | data samples to their receivers |
//! | [`tstp`] | 14/TSTP | points of time series to their receivers |
//! | [`eme`] | 15/EME | an endpoint's metadata changed |
//! | [`ecap`] | 16/ECAP | tokens and credentials |
//! | [`scmp`] | 17/SCMP | configuration changed |
//! | [`efe`] | 18/EFE | filters of endpoints change, and which endpoints match |
//! | [`epmmp`] | 19/EPMMP | reading and changing metadata |
//! | [`efmp`] | 20/EFMP | asking for filters and who matches |
//! | [`tle`] | 21/TLE | tenants change and go |
//! | [`cap`] | 22/CAP | clients of a tenant and their credentials |
//! | [`auth`], [`authorities`], [`commands`], [`config`], [`endpoints`], [`session`], [`tokens`], [`topics`] | the platform's own | see there |
//!
//! [`CATALOGUE`] lists them all; tests and tools work from it.

#[macro_use]
mod record;

pub mod auth;
pub mod authorities;
pub mod cap;
mod catalogue;
pub mod cip;
mod codec;
pub mod commands;
pub mod config;
pub mod dstp;
pub mod ecap;
pub mod efe;
pub mod efmp;
pub mod elce;
pub mod eme;
pub mod endpoints;
pub mod epmmp;
mod error;
pub mod esp;
mod reader;
pub mod scmp;
mod secret;
pub mod session;
pub mod subject;
pub mod tle;
pub mod tokens;
pub mod topics;
pub mod tstp;

pub use catalogue::{Address, CATALOGUE, Entry};
pub use error::{DecodeError, Fault};
pub use reader::MAX_ITEMS;
pub use record::{Envelope, Record};
pub use secret::Secret;

pub use auth::{AccessChangedEvent, AuthenticationRequest, AuthenticationResponse};
pub use authorities::{AuthoritiesChangedEvent, AuthoritiesRequest, AuthoritiesResponse, Authority};
pub use cap::{
    ClientBasicAuthenticationRequest, ClientBasicAuthenticationResponse,
    ClientCertificateAuthenticationRequest, ClientCertificateAuthenticationResponse,
    ClientCredentialsRevokedEvent,
};
pub use cip::{CommandInvocationRequest, CommandInvocationResult};
pub use commands::{CommandTransition, CommandsChangedEvent};
pub use config::{
    ConfigurationRequest, ConfigurationResponse, ServiceInstanceAnnouncement,
    ServiceInstanceAnnouncementResponse,
};
pub use dstp::{DataSamplesEvent, DataSamplesProcessed};
pub use ecap::{
    ClientCertificateValidationRequest, ClientCertificateValidationResponse, ClientCredentialRevokedEvent,
    ClientUsernamePasswordValidationRequest, ClientUsernamePasswordValidationResponse,
    EndpointTokenRevokedEvent, EndpointTokenStatusTransitionRequest, EndpointTokenStatusTransitionResponse,
    EndpointTokenValidationRequest, EndpointTokenValidationResponse,
};
pub use efe::{
    EndpointFilterActivatedEvent, EndpointFilterDeletedEvent, EndpointFilterPendingEvent,
    EndpointMatchedFilterEvent, EndpointUnmatchedFilterEvent,
};
pub use efmp::{
    EndpointFiltersRequest, EndpointFiltersResponse, EndpointListByFilterRequest,
    EndpointListByFilterResponse,
};
pub use elce::{
    AppVersionUpdatedEvent, ConnectedEvent, DisconnectedEvent, RegisteredEvent, TrafficReportEvent,
    TrafficStat, UnregisteredEvent,
};
pub use eme::{MetadataKeyUpdatedDto, MetadataUpdatedEvent};
pub use endpoints::{EndpointGetRequest, EndpointGetResponse};
pub use epmmp::{
    AppVersionsByEndpointsRequest, AppVersionsByEndpointsResponse, EndpointMetadataGetRequest,
    EndpointMetadataGetResponse, EndpointMetadataKeyBatchUpdateRequest,
    EndpointMetadataKeyBatchUpdateResponse, EndpointMetadataKeyUpdateCommand,
    EndpointMetadataKeyUpdateRequest, EndpointMetadataKeyUpdateResponse, EndpointMetadataKeysGetRequest,
    EndpointMetadataKeysGetResponse, EndpointMetadataPatchRequest, EndpointMetadataPatchResponse,
};
pub use esp::{ClientData, DeliveryReport, ExtensionData};
pub use scmp::{BroadcastConfigurationUpdateEvent, ServiceSpecificConfigurationUpdateEvent};
pub use session::{ClientConnectedEvent, ReplicaAliveEvent};
pub use tokens::{
    EndpointTokenCreateRequest, EndpointTokenCreateResponse, EndpointTokensDeleteRequest,
    EndpointTokensDeleteResponse,
};
pub use topics::{
    TopicDeliveryReport, TopicMessage, TopicPublishRequest, TopicPublishResponse, TopicSubscribeRequest,
    TopicSubscribeResponse,
};
pub use tstp::{DataPoint, TimeSeriesEvent, TimeSeriesProcessed, Value};
