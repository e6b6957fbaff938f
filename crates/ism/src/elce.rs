//! 9/ELCE: endpoints come and go, are created, moved and deleted, and what traffic they made.

use std::collections::BTreeMap;

use crate::subject::{Event, Message};

/// The protocol's name in subjects of messages that are no events.
pub const PROTOCOL: &str = "elce";
/// Carries [`ConnectedEvent`].
pub const CONNECTED: Event = Event { entity: "endpoint", group: "connectivity", event_type: "connected" };
/// Carries [`ConnectedEvent`] to the one replica that has an endpoint which is connected here too. Ours.
pub const CONNECTED_HERE_TOO: Message = Message { protocol: PROTOCOL, message_type: "connected" };
/// Carries [`DisconnectedEvent`].
pub const DISCONNECTED: Event =
    Event { entity: "endpoint", group: "connectivity", event_type: "disconnected" };
/// Carries [`RegisteredEvent`].
pub const REGISTERED: Event = Event { entity: "endpoint", group: "lifecycle", event_type: "registered" };
/// Carries [`AppVersionUpdatedEvent`].
pub const APP_VERSION_UPDATED: Event =
    Event { entity: "endpoint", group: "lifecycle", event_type: "appversion-updated" };
/// Carries [`UnregisteredEvent`].
pub const UNREGISTERED: Event = Event { entity: "endpoint", group: "lifecycle", event_type: "unregistered" };
/// Carries [`TrafficReportEvent`].
pub const TRAFFIC_REPORT: Event =
    Event { entity: "endpoint", group: "traffic-reporting", event_type: "payload" };

record! {
    /// Endpoints of one connection came online.
    pub struct ConnectedEvent in "elce" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        /// Endpoint id to application version name.
        pub endpoints: BTreeMap<String, String>,
        pub originator_replica_id: String,
    }
}

record! {
    /// Endpoints of one connection went offline.
    pub struct DisconnectedEvent in "elce" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        /// Endpoint id to application version name.
        pub endpoints: BTreeMap<String, String>,
        pub originator_replica_id: String,
    }
}

record! {
    /// An endpoint was created.
    pub struct RegisteredEvent in "elce" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub app_version_name: String,
        pub endpoint_id: String,
        pub originator_replica_id: String,
    }
}

record! {
    /// An endpoint moved to another application version.
    pub struct AppVersionUpdatedEvent in "elce" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub app_version_name: String,
        pub previous_app_version_name: String,
        pub endpoint_id: String,
        pub originator_replica_id: String,
    }
}

record! {
    /// An endpoint was deleted.
    pub struct UnregisteredEvent in "elce" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub app_version_name: String,
        pub endpoint_id: String,
        pub originator_replica_id: String,
    }
}

part! {
    /// Traffic of one endpoint in the period. Payloads are in bytes.
    pub struct TrafficStat {
        pub total_received_payload: i64,
        pub total_sent_payload: i64,
        pub total_received_message_count: i64,
        pub total_sent_message_count: i64,
    }
}

/// Traffic by tenant id, application name and endpoint id.
pub type TenantTrafficStats = BTreeMap<String, BTreeMap<String, BTreeMap<String, TrafficStat>>>;

record! {
    /// Traffic of endpoints over a period. The period is in nanoseconds since 1970-01-01 UTC.
    pub struct TrafficReportEvent in "elce" {
        pub tenant_traffic_stats: TenantTrafficStats,
        pub time_from: i64,
        pub time_to: i64,
        pub correlation_id: String,
        pub originator_replica_id: String,
        pub timestamp: i64,
        pub timeout: i64,
    }
}

envelope!(
    ConnectedEvent,
    DisconnectedEvent,
    RegisteredEvent,
    AppVersionUpdatedEvent,
    UnregisteredEvent,
    TrafficReportEvent
);
