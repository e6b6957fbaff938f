//! How gateway replicas learn that a client connected elsewhere, so that one client id has one connection, and everyone
//! that a gateway replica is alive. The platform's own.

use crate::subject::{Event, Message};

/// Carries [`ClientConnectedEvent`].
pub const CLIENT_CONNECTED: Event = Event { entity: "client", group: "session", event_type: "connected" };
/// Carries [`ReplicaAliveEvent`].
pub const REPLICA_ALIVE: Event = Event { entity: "replica", group: "session", event_type: "alive" };

/// The protocol's name in subjects.
pub const PROTOCOL: &str = "session";
/// Carries a [`ClientConnectedEvent`] of a connection that is not new, from replica to replica.
pub const CLIENT_ANNOUNCED: Message = Message { protocol: PROTOCOL, message_type: "client-connected" };

record! {
    /// A client connected: an older connection with its client id, on any replica, must close.
    pub struct ClientConnectedEvent in "session" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub client_id: String,
        pub originator_replica_id: String,
    }
}

record! {
    /// The gateway replica is alive, with its clients. One that is silent for four intervals is dead: none of its clients
    /// is connected any more.
    pub struct ReplicaAliveEvent in "session" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub originator_replica_id: String,
        /// Milliseconds until the next of these events.
        pub interval_ms: i64,
    }
}

envelope!(ClientConnectedEvent, ReplicaAliveEvent);
