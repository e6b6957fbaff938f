//! 18/EFE: endpoint filters become active, pending, deleted; endpoints begin and cease to match them. The group of these
//! events is the id of the filter.

use crate::subject::GroupedEvent;

const ENTITY: &str = "endpoint-filter";

/// Carries [`EndpointFilterActivatedEvent`].
pub const ACTIVATED: GroupedEvent = GroupedEvent { entity: ENTITY, event_type: "activated" };
/// Carries [`EndpointFilterPendingEvent`].
pub const PENDING: GroupedEvent = GroupedEvent { entity: ENTITY, event_type: "pending" };
/// Carries [`EndpointFilterDeletedEvent`].
pub const DELETED: GroupedEvent = GroupedEvent { entity: ENTITY, event_type: "deleted" };
/// Carries [`EndpointMatchedFilterEvent`].
pub const EP_MATCHED: GroupedEvent = GroupedEvent { entity: ENTITY, event_type: "ep-matched" };
/// Carries [`EndpointUnmatchedFilterEvent`].
pub const EP_UNMATCHED: GroupedEvent = GroupedEvent { entity: ENTITY, event_type: "ep-unmatched" };

record! {
    /// A filter went from pending to active: from now on its list of endpoints is complete.
    pub struct EndpointFilterActivatedEvent in "efe" {
        pub timestamp: i64,
        pub timeout: i64,
        pub correlation_id: String,
        pub originator_replica_id: String,
        pub filter_id: String,
        pub application_name: String,
        pub filter_name: Option<String> = NullFirst,
    }
}

record! {
    /// A filter was created, or went from active to pending.
    pub struct EndpointFilterPendingEvent in "efe" {
        pub timestamp: i64,
        pub timeout: i64,
        pub correlation_id: String,
        pub originator_replica_id: String,
        pub filter_id: String,
        pub application_name: String,
        pub filter_name: Option<String> = NullFirst,
    }
}

record! {
    /// A filter was deleted.
    pub struct EndpointFilterDeletedEvent in "efe" {
        pub timestamp: i64,
        pub timeout: i64,
        pub correlation_id: String,
        pub originator_replica_id: String,
        pub filter_id: String,
        pub application_name: String,
        pub filter_name: Option<String> = NullFirst,
    }
}

record! {
    /// An endpoint matches a filter that it did not match before: it is new, or changed.
    pub struct EndpointMatchedFilterEvent in "efe" {
        pub timestamp: i64,
        pub timeout: i64,
        pub correlation_id: String,
        pub originator_replica_id: String,
        pub filter_id: String,
        pub application_name: String,
        pub app_version_name: String,
        pub filter_name: Option<String> = NullFirst,
        pub endpoint_id: String,
    }
}

record! {
    /// An endpoint no longer matches a filter: it changed, or was deleted.
    pub struct EndpointUnmatchedFilterEvent in "efe" {
        pub timestamp: i64,
        pub timeout: i64,
        pub correlation_id: String,
        pub originator_replica_id: String,
        pub filter_id: String,
        pub application_name: String,
        pub app_version_name: String,
        pub filter_name: Option<String> = NullFirst,
        pub endpoint_id: String,
    }
}

envelope!(
    EndpointFilterActivatedEvent,
    EndpointFilterPendingEvent,
    EndpointFilterDeletedEvent,
    EndpointMatchedFilterEvent,
    EndpointUnmatchedFilterEvent
);
