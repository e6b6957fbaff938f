//! 12/CIP: a service invokes a command on an endpoint, and gets the result.

use bytes::Bytes;

use crate::subject::Message;

/// The protocol's name in subjects.
pub const PROTOCOL: &str = "cip";
/// Carries [`CommandInvocationRequest`].
pub const COMMAND_REQUEST: Message = Message { protocol: PROTOCOL, message_type: "command-request" };
/// Carries [`CommandInvocationResult`].
pub const COMMAND_RESULT: Message = Message { protocol: PROTOCOL, message_type: "command-result" };

record! {
    /// Asks to invoke a command on an endpoint.
    pub struct CommandInvocationRequest in "cip" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub endpoint_id: String,
        pub command_type: String,
        /// The caller's own: with endpoint and type it names one command.
        pub command_id: i32,
        pub payload: Option<Bytes> = NullFirst,
    }
}

record! {
    /// What became of a command.
    pub struct CommandInvocationResult in "cip" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub app_version_name: String,
        pub endpoint_id: String,
        pub command_type: String,
        pub command_id: i32,
        pub status_code: i32,
        pub reason_phrase: Option<String> = NullFirst,
        pub payload: Option<Bytes> = NullFirst,
    }
}

envelope!(CommandInvocationRequest, CommandInvocationResult);
