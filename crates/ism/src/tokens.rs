//! How an endpoint gets its token when it is created and loses all when it is deleted. The platform's own: 16/ECAP begins
//! with the token.

use crate::Secret;
use crate::subject::Message;

/// The protocol's name in subjects.
pub const PROTOCOL: &str = "tokens";
/// Carries [`EndpointTokenCreateRequest`].
pub const CREATE_REQUEST: Message = Message { protocol: PROTOCOL, message_type: "create-request" };
/// Carries [`EndpointTokenCreateResponse`].
pub const CREATE_RESPONSE: Message = Message { protocol: PROTOCOL, message_type: "create-response" };
/// Carries [`EndpointTokensDeleteRequest`].
pub const DELETE_REQUEST: Message = Message { protocol: PROTOCOL, message_type: "delete-request" };
/// Carries [`EndpointTokensDeleteResponse`].
pub const DELETE_RESPONSE: Message = Message { protocol: PROTOCOL, message_type: "delete-response" };

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

record! {
    /// Asks to delete all tokens of an endpoint.
    pub struct EndpointTokensDeleteRequest in "tokens" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub tenant_id: String,
        pub app_name: String,
        pub endpoint_id: String,
    }
}

record! {
    /// 200: the endpoint has no tokens any more, or never had any.
    pub struct EndpointTokensDeleteResponse in "tokens" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub status_code: i32,
        pub reason_phrase: Option<String> = NullFirst,
    }
}

envelope!(
    EndpointTokenCreateRequest,
    EndpointTokenCreateResponse,
    EndpointTokensDeleteRequest,
    EndpointTokensDeleteResponse
);
