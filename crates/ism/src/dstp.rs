//! 13/DSTP: data samples, broadcast to their receivers, who answer when a reply subject is given.

use bytes::Bytes;

use crate::subject::{Event, Message};

/// The protocol's name in subjects.
pub const PROTOCOL: &str = "dstp";
/// Carries [`DataSamplesEvent`].
pub const DATA_SAMPLES_RECEIVED: Event =
    Event { entity: "endpoint", group: "data-collection", event_type: "data-samples-received" };
/// Carries [`DataSamplesProcessed`].
pub const DATA_SAMPLES_PROCESSED: Message =
    Message { protocol: PROTOCOL, message_type: "DataSamplesProcessed" };

/// The content type of samples that are JSON documents.
pub const JSON: &str = "application/json";

record! {
    /// Data samples of one endpoint.
    pub struct DataSamplesEvent in "dstp" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub app_version_name: String,
        pub endpoint_id: String,
        /// Media type of every sample; [`JSON`] for what devices send on `/json`.
        pub content_type: String,
        /// In the order sent.
        pub data_samples: Vec<Bytes>,
    }
}

record! {
    /// A receiver's answer, one for all samples of the event.
    pub struct DataSamplesProcessed in "dstp" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub receiver_service_instance_name: String,
        pub status_code: i32,
        pub reason_phrase: Option<String> = NullFirst,
    }
}

envelope!(DataSamplesEvent, DataSamplesProcessed);
