//! 21/TLE: tenants change and go. The records do not stand at the crate's root: [`elce`](crate::elce) has one of the same
//! name.

use crate::subject::Event;

/// Carries [`UpdatedEvent`].
pub const UPDATED: Event = Event { entity: "tenant", group: "lifecycle", event_type: "updated" };
/// Carries [`UnregisteredEvent`].
pub const UNREGISTERED: Event = Event { entity: "tenant", group: "lifecycle", event_type: "unregistered" };

record! {
    /// What is known of a tenant changed.
    pub struct UpdatedEvent in "tle" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub tenant_id: String,
        pub originator_replica_id: String,
    }
}

record! {
    /// A tenant was removed from the platform: whatever is kept for it must go.
    pub struct UnregisteredEvent in "tle" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub tenant_id: String,
        pub originator_replica_id: String,
    }
}

envelope!(UpdatedEvent, UnregisteredEvent);
