//! 22/CAP: may this client of the tenant connect, and which credentials were revoked.

use crate::Secret;
use crate::subject::{Event, Message};

/// The protocol's name in subjects.
pub const PROTOCOL: &str = "cap";
/// Carries [`ClientBasicAuthenticationRequest`].
pub const BASIC_REQUEST: Message = Message { protocol: PROTOCOL, message_type: "basic-request" };
/// Carries [`ClientBasicAuthenticationResponse`].
pub const BASIC_RESPONSE: Message = Message { protocol: PROTOCOL, message_type: "basic-response" };
/// Carries [`ClientCertificateAuthenticationRequest`].
pub const CERTIFICATE_REQUEST: Message = Message { protocol: PROTOCOL, message_type: "certificate-request" };
/// Carries [`ClientCertificateAuthenticationResponse`].
pub const CERTIFICATE_RESPONSE: Message =
    Message { protocol: PROTOCOL, message_type: "certificate-response" };
/// Carries [`ClientCredentialsRevokedEvent`] for a user name and password.
pub const BASIC_REVOKED: Event =
    Event { entity: "client-credentials", group: "basic", event_type: "revoked" };
/// Carries [`ClientCredentialsRevokedEvent`] for a certificate.
pub const CERTIFICATE_REVOKED: Event =
    Event { entity: "client-credentials", group: "certificate", event_type: "revoked" };

record! {
    /// Asks whether a client of the tenant may connect with this user name and password.
    pub struct ClientBasicAuthenticationRequest in "cap" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub tenant_id: String,
        pub username: String,
        pub password: Secret,
    }
}

record! {
    /// Both ids are none when there are no such credentials, the client's also when it is unknown.
    pub struct ClientBasicAuthenticationResponse in "cap" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub credentials_id: Option<String> = NullLast,
        pub client_id: Option<String> = NullLast,
        pub status_code: i32,
        pub reason_phrase: Option<String> = NullFirst,
    }
}

record! {
    /// Asks whether a client may connect with this certificate, whose chain and dates the asker has checked.
    pub struct ClientCertificateAuthenticationRequest in "cap" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub issuer: String,
        /// In decimal.
        pub serial_number: String,
    }
}

record! {
    /// All ids are none when there are no such credentials, the client's also when it is unknown.
    pub struct ClientCertificateAuthenticationResponse in "cap" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub tenant_id: Option<String> = NullLast,
        pub credentials_id: Option<String> = NullLast,
        pub client_id: Option<String> = NullLast,
        pub status_code: i32,
        pub reason_phrase: Option<String> = NullFirst,
    }
}

record! {
    /// Credentials became unusable: sessions of their client must end at once.
    pub struct ClientCredentialsRevokedEvent in "cap" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub tenant_id: String,
        pub credentials_id: String,
        pub originator_replica_id: String,
    }
}

envelope!(
    ClientBasicAuthenticationRequest,
    ClientBasicAuthenticationResponse,
    ClientCertificateAuthenticationRequest,
    ClientCertificateAuthenticationResponse,
    ClientCredentialsRevokedEvent
);
