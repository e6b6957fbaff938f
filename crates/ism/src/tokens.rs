//! How an endpoint gets its token when it is created. The platform's own: 16/ECAP begins with the token.

use crate::Secret;
use crate::subject::Message;

/// The protocol's name in subjects.
pub const PROTOCOL: &str = "tokens";
/// Carries [`EndpointTokenCreateRequest`].
pub const CREATE_REQUEST: Message = Message { protocol: PROTOCOL, message_type: "create-request" };
/// Carries [`EndpointTokenCreateResponse`].
pub const CREATE_RESPONSE: Message = Message { protocol: PROTOCOL, message_type: "create-response" };

record! {
    /// Asks for a token for an endpoint.
    pub struct EndpointTokenCreateRequest in "tokens" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub tenant_id: String,
        pub app_name: String,
        pub endpoint_id: String,
        /// The token wished for; none: one is made.
        pub token: Option<Secret> = NullFirst,
    }
}

record! {
    /// The token; 409 when the one wished for is taken.
    pub struct EndpointTokenCreateResponse in "tokens" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub token_id: Option<String> = NullFirst,
        pub token: Option<Secret> = NullFirst,
        pub status: Option<String> = NullFirst,
        pub status_code: i32,
        pub reason_phrase: Option<String> = NullFirst,
    }
}

envelope!(EndpointTokenCreateRequest, EndpointTokenCreateResponse);
