//! 19/EPMMP: reading and changing endpoints' metadata, and which application versions endpoints have.
//!
//! The requests name no tenant: an endpoint id is that of one endpoint in all tenants.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::subject::Message;

/// The protocol's name in subjects.
pub const PROTOCOL: &str = "epmmp";
/// Carries [`EndpointMetadataGetRequest`].
pub const EP_METADATA_GET_REQUEST: Message =
    Message { protocol: PROTOCOL, message_type: "ep-metadata-get-request" };
/// Carries [`EndpointMetadataGetResponse`].
pub const EP_METADATA_GET_RESPONSE: Message =
    Message { protocol: PROTOCOL, message_type: "ep-metadata-get-response" };
/// Carries [`EndpointMetadataPatchRequest`].
pub const EP_METADATA_PATCH_REQUEST: Message =
    Message { protocol: PROTOCOL, message_type: "ep-metadata-patch-request" };
/// Carries [`EndpointMetadataPatchResponse`].
pub const EP_METADATA_PATCH_RESPONSE: Message =
    Message { protocol: PROTOCOL, message_type: "ep-metadata-patch-response" };
/// Carries [`EndpointMetadataKeyUpdateRequest`].
pub const EP_METADATA_KEY_UPDATE_REQUEST: Message =
    Message { protocol: PROTOCOL, message_type: "ep-metadata-key-update-request" };
/// Carries [`EndpointMetadataKeyUpdateResponse`].
pub const EP_METADATA_KEY_UPDATE_RESPONSE: Message =
    Message { protocol: PROTOCOL, message_type: "ep-metadata-key-update-response" };
/// Carries [`EndpointMetadataKeyBatchUpdateRequest`].
pub const EP_METADATA_KEY_BATCH_UPDATE_REQUEST: Message =
    Message { protocol: PROTOCOL, message_type: "ep-metadata-key-batch-update-request" };
/// Carries [`EndpointMetadataKeyBatchUpdateResponse`]. In 19/EPMMP its type is that of the answer to a single update; the
/// two never meet, because each goes to the reply subject of its own request.
pub const EP_METADATA_KEY_BATCH_UPDATE_RESPONSE: Message = EP_METADATA_KEY_UPDATE_RESPONSE;
/// Carries [`EndpointMetadataKeysGetRequest`].
pub const EP_METADATA_KEYS_GET_REQUEST: Message =
    Message { protocol: PROTOCOL, message_type: "ep-metadata-keys-get-request" };
/// Carries [`EndpointMetadataKeysGetResponse`].
pub const EP_METADATA_KEYS_GET_RESPONSE: Message =
    Message { protocol: PROTOCOL, message_type: "ep-metadata-keys-get-response" };
/// Carries [`AppVersionsByEndpointsRequest`].
pub const EP_APP_VERSION_GET_REQUEST: Message =
    Message { protocol: PROTOCOL, message_type: "ep-app-version-get-request" };
/// Carries [`AppVersionsByEndpointsResponse`].
pub const EP_APP_VERSION_GET_RESPONSE: Message =
    Message { protocol: PROTOCOL, message_type: "ep-app-version-get-response" };

record! {
    /// Asks for an endpoint's metadata. The default of `include_metadata` in the schema is true, that of the struct false.
    pub struct EndpointMetadataGetRequest in "epmmp" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub endpoint_id: String,
        /// The keys wanted; empty: all.
        pub include: Vec<String>,
        /// Whether metadata is wanted at all, and not only the application version.
        pub include_metadata: bool,
    }
}

record! {
    /// The metadata; 404 when there is no such endpoint.
    pub struct EndpointMetadataGetResponse in "epmmp" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub endpoint_id: String,
        /// Names this state of the metadata, for `if_match`.
        pub e_tag: Option<String> = NullFirst,
        /// A JSON object.
        pub payload: Option<Bytes> = NullFirst,
        pub status_code: i32,
        pub reason_phrase: Option<String> = NullFirst,
        pub app_version_name: Option<String> = NullFirst,
    }
}

record! {
    /// Asks to change an endpoint's metadata in part.
    pub struct EndpointMetadataPatchRequest in "epmmp" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub endpoint_id: String,
        /// As in the HTTP header: change nothing unless the metadata has this tag.
        pub if_match: Option<String> = NullFirst,
        /// A JSON Patch (RFC 6902).
        pub patch: Bytes,
    }
}

record! {
    /// Whether the metadata was changed: 412 when it has another tag, an error for a restricted key.
    pub struct EndpointMetadataPatchResponse in "epmmp" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub endpoint_id: String,
        pub status_code: i32,
        pub reason_phrase: Option<String> = NullFirst,
    }
}

record! {
    /// Asks to set one key of an endpoint's metadata.
    pub struct EndpointMetadataKeyUpdateRequest in "epmmp" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub endpoint_id: String,
        pub metadata_key: String,
        /// JSON.
        pub metadata_value: Bytes,
    }
}

record! {
    /// Whether the key was set; an error for a restricted key.
    pub struct EndpointMetadataKeyUpdateResponse in "epmmp" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub endpoint_id: String,
        pub status_code: i32,
        pub reason_phrase: Option<String> = NullFirst,
    }
}

part! {
    /// One key of one endpoint to set.
    pub struct EndpointMetadataKeyUpdateCommand {
        pub endpoint_id: String,
        pub metadata_key: String,
        /// JSON.
        pub metadata_value: Bytes,
    }
}

record! {
    /// Asks to set keys of endpoints' metadata.
    pub struct EndpointMetadataKeyBatchUpdateRequest in "epmmp" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub commands: Vec<EndpointMetadataKeyUpdateCommand>,
    }
}

record! {
    /// Whether the keys were set.
    pub struct EndpointMetadataKeyBatchUpdateResponse in "epmmp" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub status_code: i32,
        pub reason_phrase: Option<String> = NullFirst,
    }
}

record! {
    /// Asks which keys an endpoint's metadata has.
    pub struct EndpointMetadataKeysGetRequest in "epmmp" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub endpoint_id: String,
    }
}

record! {
    /// The keys; 404 when there is no such endpoint.
    pub struct EndpointMetadataKeysGetResponse in "epmmp" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub endpoint_id: String,
        pub keys: Vec<String>,
        pub status_code: i32,
        pub reason_phrase: Option<String> = NullFirst,
    }
}

record! {
    /// Asks which application versions endpoints have.
    pub struct AppVersionsByEndpointsRequest in "epmmp" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub endpoint_ids: Vec<String>,
    }
}

record! {
    /// The endpoints asked for, by application version; those that do not exist are missing there.
    pub struct AppVersionsByEndpointsResponse in "epmmp" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        /// As in the request.
        pub endpoint_ids: Vec<String>,
        /// Application version name to endpoint ids.
        pub app_versions_to_endpoints: BTreeMap<String, Vec<String>>,
        pub status_code: i32,
        pub reason_phrase: Option<String> = NullFirst,
    }
}

envelope!(
    EndpointMetadataGetRequest,
    EndpointMetadataGetResponse,
    EndpointMetadataPatchRequest,
    EndpointMetadataPatchResponse,
    EndpointMetadataKeyUpdateRequest,
    EndpointMetadataKeyUpdateResponse,
    EndpointMetadataKeyBatchUpdateRequest,
    EndpointMetadataKeyBatchUpdateResponse,
    EndpointMetadataKeysGetRequest,
    EndpointMetadataKeysGetResponse,
    AppVersionsByEndpointsRequest,
    AppVersionsByEndpointsResponse
);
