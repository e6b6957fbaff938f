//! What happens to commands, told to whoever listens. The platform's own: 12/CIP tells only the one who invoked.

use crate::subject::Event;

/// Carries [`CommandsChangedEvent`].
pub const CHANGED: Event = Event { entity: "command", group: "lifecycle", event_type: "changed" };

part! {
    /// One command that reached a state.
    pub struct CommandTransition {
        pub tenant_id: String,
        pub application_name: String,
        pub endpoint_id: String,
        pub command_type: String,
        pub command_id: i32,
        /// `CREATED`, `SENT`, `DELIVERED`, `EXECUTED`, `UNDELIVERED`, `EXPIRED` or `CANCELLED`.
        pub state: String,
        pub reason: Option<String> = NullFirst,
        /// Milliseconds since 1970-01-01 UTC.
        pub at: i64,
    }
}

record! {
    /// Commands reached states. Sent after the commit, and may be lost: the ledger is the truth.
    pub struct CommandsChangedEvent in "commands" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub transitions: Vec<CommandTransition>,
        pub originator_replica_id: String,
    }
}

envelope!(CommandsChangedEvent);
