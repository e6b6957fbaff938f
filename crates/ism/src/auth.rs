//! Who calls a REST interface, and what he may do. The platform's own.

use std::collections::BTreeMap;

use crate::Secret;
use crate::subject::{Event, Message};

/// The protocol's name in subjects.
pub const PROTOCOL: &str = "auth";
/// Carries [`AuthenticationRequest`].
pub const AUTHENTICATE_REQUEST: Message =
    Message { protocol: PROTOCOL, message_type: "authenticate-request" };
/// Carries [`AuthenticationResponse`].
pub const AUTHENTICATE_RESPONSE: Message =
    Message { protocol: PROTOCOL, message_type: "authenticate-response" };
/// Carries [`AccessChangedEvent`].
pub const ACCESS_CHANGED: Event = Event { entity: "tenant", group: "access", event_type: "changed" };

record! {
    /// Asks whose credential this is.
    pub struct AuthenticationRequest in "auth" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        /// An access token or an API key.
        pub credential: Secret,
    }
}

record! {
    /// 200: the caller; 401: the credential is unknown, expired or forged; 403: known, but disabled.
    pub struct AuthenticationResponse in "auth" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub tenant_id: Option<String> = NullFirst,
        /// The id of the user or key.
        pub subject: Option<String> = NullFirst,
        /// The name of the user or key.
        pub name: Option<String> = NullFirst,
        /// The role in the whole tenant; none: there are only the grants.
        pub role: Option<String> = NullFirst,
        /// Application name to the role there.
        pub grants: BTreeMap<String, String>,
        /// When the credential expires, in milliseconds since 1970-01-01 UTC; none: never.
        pub expires_at: Option<i64> = NullFirst,
        pub status_code: i32,
        pub reason_phrase: Option<String> = NullFirst,
    }
}

record! {
    /// Users, keys, roles or the tenant itself changed: what was authenticated for this tenant must be asked again.
    pub struct AccessChangedEvent in "auth" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub tenant_id: String,
        pub originator_replica_id: String,
    }
}

envelope!(AuthenticationRequest, AuthenticationResponse, AccessChangedEvent);
