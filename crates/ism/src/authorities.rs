//! How gateways learn which certificate authorities tenants trust for their clients. The platform's own.

use bytes::Bytes;

use crate::subject::{Event, Message};

/// The protocol's name in subjects.
pub const PROTOCOL: &str = "authorities";
/// Carries [`AuthoritiesRequest`].
pub const AUTHORITIES_REQUEST: Message = Message { protocol: PROTOCOL, message_type: "authorities-request" };
/// Carries [`AuthoritiesResponse`].
pub const AUTHORITIES_RESPONSE: Message =
    Message { protocol: PROTOCOL, message_type: "authorities-response" };
/// Carries [`AuthoritiesChangedEvent`].
pub const AUTHORITIES_CHANGED: Event =
    Event { entity: "client-credentials", group: "authorities", event_type: "changed" };

record! {
    /// Asks for a page of the authorities of all tenants.
    pub struct AuthoritiesRequest in "authorities" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        /// The previous page's `next`; none: the first page.
        pub after: Option<String> = NullFirst,
    }
}

part! {
    /// An authority that a tenant trusts.
    pub struct Authority {
        pub tenant_id: String,
        /// DER.
        pub certificate: Bytes,
    }
}

record! {
    /// A page of authorities.
    pub struct AuthoritiesResponse in "authorities" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub authorities: Vec<Authority>,
        /// What to ask for the next page with, opaque; none: this is the last page.
        pub next: Option<String> = NullFirst,
        pub status_code: i32,
        pub reason_phrase: Option<String> = NullFirst,
    }
}

record! {
    /// The authorities of a tenant changed.
    pub struct AuthoritiesChangedEvent in "authorities" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub tenant_id: String,
        pub originator_replica_id: String,
    }
}

envelope!(AuthoritiesRequest, AuthoritiesResponse, AuthoritiesChangedEvent);
