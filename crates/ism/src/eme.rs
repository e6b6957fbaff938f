//! 15/EME: an endpoint's metadata changed.

use std::collections::BTreeMap;

use crate::subject::Event;

/// Carries [`MetadataUpdatedEvent`].
pub const METADATA_UPDATED: Event = Event { entity: "endpoint", group: "metadata", event_type: "updated" };

part! {
    /// The values of a key that stayed, as JSON texts; none is JSON null.
    pub struct MetadataKeyUpdatedDto {
        pub new_value: Option<String> = NullFirst,
        pub old_value: Option<String> = NullFirst,
    }
}

record! {
    /// Keys of an endpoint's metadata were removed, added or got another value. Values are JSON texts, as in
    /// [`MetadataKeyUpdatedDto`].
    pub struct MetadataUpdatedEvent in "eme" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub app_version_name: String,
        pub endpoint_id: String,
        /// Key to its former value.
        pub removed: BTreeMap<String, Option<String>> = NullFirstValues,
        /// Key to its value.
        pub added: BTreeMap<String, Option<String>> = NullFirstValues,
        pub updated: BTreeMap<String, MetadataKeyUpdatedDto>,
        pub originator_replica_id: String,
    }
}

envelope!(MetadataUpdatedEvent);
