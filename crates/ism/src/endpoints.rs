//! How a service learns which application version an endpoint has. The platform's own.

use crate::subject::Message;

/// The protocol's name in subjects.
pub const PROTOCOL: &str = "endpoints";
/// Carries [`EndpointGetRequest`].
pub const GET_REQUEST: Message = Message { protocol: PROTOCOL, message_type: "get-request" };
/// Carries [`EndpointGetResponse`].
pub const GET_RESPONSE: Message = Message { protocol: PROTOCOL, message_type: "get-response" };

record! {
    /// Asks which application version an endpoint of the tenant has.
    pub struct EndpointGetRequest in "endpoints" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub tenant_id: String,
        pub endpoint_id: String,
    }
}

record! {
    /// Where the endpoint belongs; 404 and no names when the tenant has no such endpoint.
    pub struct EndpointGetResponse in "endpoints" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub app_name: Option<String> = NullFirst,
        pub app_version_name: Option<String> = NullFirst,
        pub status_code: i32,
        pub reason_phrase: Option<String> = NullFirst,
    }
}

envelope!(EndpointGetRequest, EndpointGetResponse);
