//! How a service makes itself known, asks for its configuration at an application or a tenant, and learns whose the
//! application is. The platform's own: 17/SCMP says only that configuration changed.

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
/// Carries [`ServiceInstanceAnnouncement`].
pub const SERVICE_INSTANCE_ANNOUNCEMENT: Message =
    Message { protocol: PROTOCOL, message_type: "service-instance-announcement" };
/// Carries [`ServiceInstanceAnnouncementResponse`].
pub const SERVICE_INSTANCE_ANNOUNCEMENT_RESPONSE: Message =
    Message { protocol: PROTOCOL, message_type: "service-instance-announcement-response" };

record! {
    /// Asks for a service's block at an application version, an application or a tenant; exactly one of the three is given.
    pub struct ConfigurationRequest in "config" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub service_instance_name: String,
        /// The version's block wins over the application's.
        pub app_version_name: Option<String> = NullFirst,
        pub app_name: Option<String> = NullFirst,
        pub tenant_id: Option<String> = NullFirst,
    }
}

record! {
    /// The block and whose it is; 404 when there is no such version, application or tenant. For a tenant there is no
    /// application.
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

record! {
    /// A service instance makes itself known: at its start until it is answered, and again every minute.
    pub struct ServiceInstanceAnnouncement in "config" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub service_instance_name: String,
        /// A JSON object: `name`, `serviceName`, `serviceGroup`, `description`, `urlPrefix`, all texts, and the JSON Schemas
        /// of the blocks that it takes: `appConfigurationSchema`, `appVersionConfigurationSchema`,
        /// `tenantConfigurationSchema`; one that is missing: it takes no such block.
        pub description: Bytes,
    }
}

record! {
    /// 200: the instance is known.
    pub struct ServiceInstanceAnnouncementResponse in "config" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub status_code: i32,
        pub reason_phrase: Option<String> = NullFirst,
    }
}

envelope!(
    ConfigurationRequest,
    ConfigurationResponse,
    ServiceInstanceAnnouncement,
    ServiceInstanceAnnouncementResponse
);
