//! How gateway replicas learn that a client connected elsewhere, so that one client id has one connection. The platform's
//! own.

use crate::subject::Event;

/// Carries [`ClientConnectedEvent`].
pub const CLIENT_CONNECTED: Event = Event { entity: "client", group: "session", event_type: "connected" };

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

envelope!(ClientConnectedEvent);
