//! 4/ESP: the gateway hands over what clients send, extensions answer and push.
//!
//! `ClientData` goes to the extension instance; its reply subject, at the gateway replica, takes the `ExtensionData`, which
//! comes for every `ClientData` that has one, also when the client gave no request id. A push is an `ExtensionData` to
//! the gateway replica that last spoke for the endpoint or, when that is unknown, to the gateway's instance: every
//! replica hears it, and only the one that holds the endpoint answers with a `DeliveryReport`.
//!
//! The subjects of answers and pushes hold the extension's name ([`Message::by`]), so that none can speak as another. RFC 4's own
//! (`EXTENSION_DATA.at(..)`, `EXTENSION_DATA.replica(..)`) are heard too; who may publish there may push in any extension's name.

use bytes::Bytes;

use crate::subject::Message;

/// The protocol's name in subjects.
pub const PROTOCOL: &str = "esp";
/// Carries [`ClientData`].
pub const CLIENT_DATA: Message = Message { protocol: PROTOCOL, message_type: "ClientData" };
/// Carries [`ExtensionData`].
pub const EXTENSION_DATA: Message = Message { protocol: PROTOCOL, message_type: "ExtensionData" };
/// Carries the [`ExtensionData`] that one replica of the gateway forwards to another: an answer for subscribers there. Ours.
pub const FORWARDED_DATA: Message = Message { protocol: PROTOCOL, message_type: "ForwardedData" };
/// Carries [`DeliveryReport`].
pub const DELIVERY_REPORT: Message = Message { protocol: PROTOCOL, message_type: "DeliveryReport" };

record! {
    /// What a client sent to an extension.
    pub struct ClientData in "esp" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub app_version_name: String,
        /// None for extensions that know no endpoints.
        pub endpoint_id: Option<String> = NullLast,
        /// With its leading slash; empty when nothing follows the token.
        pub resource_path: String,
        pub request_id: Option<i32> = NullLast,
        pub payload: Bytes,
        /// The named configuration to use; none: `default`.
        pub config_name: Option<String> = NullFirst,
    }
}

record! {
    /// What an extension sends to a client.
    pub struct ExtensionData in "esp" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        /// None when the extension does not know it, which only an extension that knows endpoints may do.
        pub app_version_name: Option<String> = NullLast,
        pub extension_instance_name: Option<String> = NullLast,
        /// None for extensions that know no endpoints.
        pub endpoint_id: Option<String> = NullLast,
        /// With its leading slash, without request id and outcome.
        pub resource_path: String,
        /// None for a push, or when the client gave none.
        pub request_id: Option<i32> = NullLast,
        pub payload: Option<Bytes> = NullLast,
        pub status_code: i32,
        pub reason_phrase: Option<String> = NullFirst,
    }
}

record! {
    /// What became of a push. 200: the client has it. 404: nothing of it was written to a client, and nothing will be.
    /// 504: it may have been written and was not acknowledged. Before one of these a gateway that holds the client may say 102: it
    /// took the push, and another report follows. Ours.
    pub struct DeliveryReport in "esp" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub status_code: i32,
        pub reason_phrase: Option<String> = NullFirst,
    }
}

envelope!(ClientData, ExtensionData, DeliveryReport);
