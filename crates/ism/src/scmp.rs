//! 17/SCMP: configuration changed. Nobody answers; the new configuration is asked for (see [`config`](crate::config)).
//!
//! The fields say how much changed: nothing given: more than one tenant; a tenant alone: all of it; with an application:
//! that; with a version too: that alone. These messages never expire.

use crate::subject::{Event, Message};

/// The protocol's name in subjects.
pub const PROTOCOL: &str = "scmp";
/// Carries [`BroadcastConfigurationUpdateEvent`]: made or changed.
pub const UPSERTED: Event = Event { entity: "service", group: "configuration", event_type: "upsert" };
/// Carries [`BroadcastConfigurationUpdateEvent`]: deleted.
pub const DELETED: Event = Event { entity: "service", group: "configuration", event_type: "delete" };
/// The subject to listen on for both, from any originator.
pub const CONFIGURATION_EVENTS: &str = "kaa.v1.events.*.service.configuration.*";
/// Carries [`ServiceSpecificConfigurationUpdateEvent`]: made or changed.
pub const UPSERT: Message = Message { protocol: PROTOCOL, message_type: "configuration.upsert" };
/// Carries [`ServiceSpecificConfigurationUpdateEvent`]: deleted.
pub const DELETE: Message = Message { protocol: PROTOCOL, message_type: "configuration.delete" };

record! {
    /// Configuration changed, for every service.
    pub struct BroadcastConfigurationUpdateEvent in "scmp" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub originator_replica_id: String,
        pub tenant_id: Option<String> = NullFirst,
        pub app_name: Option<String> = NullFirst,
        pub app_ver_name: Option<String> = NullFirst,
    }
}

record! {
    /// Configuration changed, for one service.
    pub struct ServiceSpecificConfigurationUpdateEvent in "scmp" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub tenant_id: String,
        pub app_name: Option<String> = NullFirst,
        pub app_ver_name: Option<String> = NullFirst,
    }
}

envelope!(without timeout BroadcastConfigurationUpdateEvent, ServiceSpecificConfigurationUpdateEvent);
