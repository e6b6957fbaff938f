//! Topics outside of 1/KP that an extension serves: the gateway asks the extension who may subscribe, hands
//! it what clients publish, and delivers what it sends. The platform's own.

use bytes::Bytes;

use crate::subject::Message;

/// The protocol's name in subjects.
pub const PROTOCOL: &str = "topics";
/// Carries [`TopicSubscribeRequest`].
pub const SUBSCRIBE_REQUEST: Message = Message { protocol: PROTOCOL, message_type: "subscribe-request" };
/// Carries [`TopicSubscribeResponse`].
pub const SUBSCRIBE_RESPONSE: Message = Message { protocol: PROTOCOL, message_type: "subscribe-response" };
/// Carries [`TopicPublishRequest`].
pub const PUBLISH_REQUEST: Message = Message { protocol: PROTOCOL, message_type: "publish-request" };
/// Carries [`TopicPublishResponse`].
pub const PUBLISH_RESPONSE: Message = Message { protocol: PROTOCOL, message_type: "publish-response" };
/// Carries [`TopicMessage`] to all replicas of the gateway, in the extension's name
/// ([`Message::by`]).
pub const MESSAGE: Message = Message { protocol: PROTOCOL, message_type: "message" };
/// Carries [`TopicDeliveryReport`].
pub const DELIVERY_REPORT: Message = Message { protocol: PROTOCOL, message_type: "delivery-report" };

record! {
    /// Asks whether a client may subscribe to a topic of the extension.
    pub struct TopicSubscribeRequest in "topics" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub tenant_id: String,
        pub client_id: String,
        pub credentials_ids: Vec<String>,
        pub topic_filter: String,
    }
}

record! {
    /// 200: granted.
    pub struct TopicSubscribeResponse in "topics" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub status_code: i32,
        pub reason_phrase: Option<String> = NullFirst,
    }
}

record! {
    /// Hands the extension what a client published.
    pub struct TopicPublishRequest in "topics" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub tenant_id: String,
        pub client_id: String,
        pub credentials_ids: Vec<String>,
        pub topic: String,
        pub payload: Bytes,
        /// None: QoS 0.
        pub packet_id: Option<i32> = NullFirst,
        pub is_duplicate: bool,
        pub correlation_data: Option<Bytes> = NullFirst,
        pub response_topic: Option<String> = NullFirst,
    }
}

record! {
    /// 200: the extension has taken durable responsibility.
    pub struct TopicPublishResponse in "topics" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub status_code: i32,
        pub reason_phrase: Option<String> = NullFirst,
    }
}

record! {
    /// A message for the clients of a tenant that subscribed to the topic.
    pub struct TopicMessage in "topics" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub tenant_id: String,
        /// Only for clients that have shown these credentials.
        pub credentials_id: Option<String> = NullFirst,
        pub topic: String,
        pub payload: Bytes,
        pub correlation_data: Option<Bytes> = NullFirst,
        pub response_topic: Option<String> = NullFirst,
    }
}

record! {
    /// 102: a replica has clients for the message and tries; another report follows. 200: a client has it.
    /// 404: nothing of it was written and nothing will be. 504: it was written, and none acknowledged it in
    /// time.
    pub struct TopicDeliveryReport in "topics" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub status_code: i32,
        pub reason_phrase: Option<String> = NullFirst,
    }
}

envelope!(
    TopicSubscribeRequest,
    TopicSubscribeResponse,
    TopicPublishRequest,
    TopicPublishResponse,
    TopicMessage,
    TopicDeliveryReport
);
