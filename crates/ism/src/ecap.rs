//! 16/ECAP: whose token is this, may this client connect, and what was revoked.

use crate::Secret;
use crate::subject::{Event, Message};

/// The protocol's name in subjects.
pub const PROTOCOL: &str = "ecap";
/// Carries [`EndpointTokenValidationRequest`].
pub const EP_TOKEN_REQUEST: Message = Message { protocol: PROTOCOL, message_type: "ep-token-request" };
/// Carries [`EndpointTokenValidationResponse`].
pub const EP_TOKEN_RESPONSE: Message = Message { protocol: PROTOCOL, message_type: "ep-token-response" };
/// Carries [`EndpointTokenStatusTransitionRequest`].
pub const EP_TOKEN_STATUS_TRANSITION_REQUEST: Message =
    Message { protocol: PROTOCOL, message_type: "ep-token-status-transition-request" };
/// Carries [`EndpointTokenStatusTransitionResponse`].
pub const EP_TOKEN_STATUS_TRANSITION_RESPONSE: Message =
    Message { protocol: PROTOCOL, message_type: "ep-token-status-transition-response" };
/// Carries [`EndpointTokenRevokedEvent`].
pub const EP_TOKEN_REVOKED: Event = Event { entity: "endpoint", group: "token", event_type: "revoked" };
/// Carries [`ClientUsernamePasswordValidationRequest`].
pub const CLIENT_USERNAME_PASSWORD_REQUEST: Message =
    Message { protocol: PROTOCOL, message_type: "client-username-password-request" };
/// Carries [`ClientUsernamePasswordValidationResponse`].
pub const CLIENT_USERNAME_PASSWORD_RESPONSE: Message =
    Message { protocol: PROTOCOL, message_type: "client-username-password-response" };
/// Carries [`ClientCertificateValidationRequest`].
pub const CLIENT_CERTIFICATE_REQUEST: Message =
    Message { protocol: PROTOCOL, message_type: "client-certificate-request" };
/// Carries [`ClientCertificateValidationResponse`].
pub const CLIENT_CERTIFICATE_RESPONSE: Message =
    Message { protocol: PROTOCOL, message_type: "client-certificate-response" };
/// Carries [`ClientCredentialRevokedEvent`].
pub const CLIENT_CREDENTIAL_REVOKED: Event =
    Event { entity: "client", group: "credential", event_type: "revoked" };

record! {
    /// Asks whose token this is and whether it is valid.
    pub struct EndpointTokenValidationRequest in "ecap" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub app_name: String,
        pub token: Secret,
    }
}

record! {
    /// Both ids are none when there is no such token.
    pub struct EndpointTokenValidationResponse in "ecap" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub token_id: Option<String> = NullLast,
        pub endpoint_id: Option<String> = NullLast,
        pub status_code: i32,
        pub reason_phrase: Option<String> = NullFirst,
    }
}

record! {
    /// Asks to move a token to another status.
    pub struct EndpointTokenStatusTransitionRequest in "ecap" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub app_name: String,
        pub token: Secret,
        pub target_status: String,
    }
}

record! {
    /// Whether the token was moved.
    pub struct EndpointTokenStatusTransitionResponse in "ecap" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub status_code: i32,
        pub reason_phrase: Option<String> = NullFirst,
    }
}

record! {
    /// Tokens became unusable: sessions that rely on them must end at once.
    pub struct EndpointTokenRevokedEvent in "ecap" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub app_name: String,
        pub endpoint_id: String,
        pub token_ids: Vec<String>,
        pub originator_replica_id: String,
    }
}

record! {
    /// Asks whether a client may connect with this user name and password.
    pub struct ClientUsernamePasswordValidationRequest in "ecap" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub username: Option<String> = NullLast,
        pub password: Option<Secret> = NullLast,
    }
}

record! {
    /// Both ids are none when there is no such credential, the client's also when it is unknown.
    pub struct ClientUsernamePasswordValidationResponse in "ecap" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub credential_id: Option<String> = NullLast,
        pub client_id: Option<String> = NullLast,
        pub status_code: i32,
        pub reason_phrase: Option<String> = NullFirst,
    }
}

record! {
    /// Asks whether a client may connect with this certificate, whose chain and dates the asker has checked.
    pub struct ClientCertificateValidationRequest in "ecap" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub issuer: String,
        /// In decimal.
        pub serial_number: String,
    }
}

record! {
    /// Both ids are none when there is no such credential, the client's also when it is unknown.
    pub struct ClientCertificateValidationResponse in "ecap" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub credential_id: Option<String> = NullLast,
        pub client_id: Option<String> = NullLast,
        pub status_code: i32,
        pub reason_phrase: Option<String> = NullFirst,
    }
}

record! {
    /// A credential became unusable: sessions of its client must end at once.
    pub struct ClientCredentialRevokedEvent in "ecap" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub credential_id: String,
        pub originator_replica_id: String,
    }
}

envelope!(
    EndpointTokenValidationRequest,
    EndpointTokenValidationResponse,
    EndpointTokenStatusTransitionRequest,
    EndpointTokenStatusTransitionResponse,
    EndpointTokenRevokedEvent,
    ClientUsernamePasswordValidationRequest,
    ClientUsernamePasswordValidationResponse,
    ClientCertificateValidationRequest,
    ClientCertificateValidationResponse,
    ClientCredentialRevokedEvent
);
