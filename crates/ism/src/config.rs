//! How a service asks for its configuration at an application, and learns whose that is. The platform's own: 17/SCMP says
//! only that it changed.

use bytes::Bytes;

use crate::subject::Message;

/// The protocol's name in subjects.
pub const PROTOCOL: &str = "config";
/// Carries [`ConfigurationRequest`].
pub const CONFIGURATION_REQUEST: Message =
    Message { protocol: PROTOCOL, message_type: "configuration-request" };
/// Carries [`ConfigurationResponse`].
pub const CONFIGURATION_RESPONSE: Message =
    Message { protocol: PROTOCOL, message_type: "configuration-response" };

record! {
    /// Asks for a service's block at an application version or an application; exactly one of the two is given.
    pub struct ConfigurationRequest in "config" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub service_instance_name: String,
        /// The version's block wins over the application's.
        pub app_version_name: Option<String> = NullFirst,
        pub app_name: Option<String> = NullFirst,
    }
}

record! {
    /// The block and whose it is; 404 when there is no such version or application.
    pub struct ConfigurationResponse in "config" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub tenant_id: Option<String> = NullFirst,
        pub app_name: Option<String> = NullFirst,
        /// All versions of the application.
        pub app_version_names: Vec<String>,
        /// JSON; none: nothing configured.
        pub config: Option<Bytes> = NullFirst,
        pub status_code: i32,
        pub reason_phrase: Option<String> = NullFirst,
    }
}

envelope!(ConfigurationRequest, ConfigurationResponse);
