//! 20/EFMP: which filters an endpoint matches, and which endpoints match a filter.

use std::collections::BTreeMap;

use crate::subject::Message;

/// The protocol's name in subjects.
pub const PROTOCOL: &str = "efmp";
/// Carries [`EndpointFiltersRequest`].
pub const EP_FILTERS_REQUEST: Message = Message { protocol: PROTOCOL, message_type: "ep-filters-request" };
/// Carries [`EndpointFiltersResponse`].
pub const EP_FILTERS_RESPONSE: Message = Message { protocol: PROTOCOL, message_type: "ep-filters-response" };
/// Carries [`EndpointListByFilterRequest`].
pub const EP_LIST_BY_FILTER_REQUEST: Message =
    Message { protocol: PROTOCOL, message_type: "ep-list-by-filter-request" };
/// Carries [`EndpointListByFilterResponse`].
pub const EP_LIST_BY_FILTER_RESPONSE: Message =
    Message { protocol: PROTOCOL, message_type: "ep-list-by-filter-response" };

record! {
    /// Asks which filters an endpoint matches.
    pub struct EndpointFiltersRequest in "efmp" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub endpoint_id: String,
    }
}

record! {
    /// The filters; 404 when there is no such endpoint.
    pub struct EndpointFiltersResponse in "efmp" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub endpoint_id: String,
        pub filter_ids: Vec<String>,
        pub status_code: i32,
        pub reason_phrase: Option<String> = NullFirst,
    }
}

record! {
    /// Asks which endpoints match a filter.
    pub struct EndpointListByFilterRequest in "efmp" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub filter_id: String,
    }
}

record! {
    /// The endpoints; 404 when there is no such filter.
    pub struct EndpointListByFilterResponse in "efmp" {
        pub correlation_id: String,
        pub timestamp: i64,
        pub timeout: i64,
        pub filter_id: String,
        /// Application version name to endpoint ids.
        pub app_versions_to_endpoints: BTreeMap<String, Vec<String>>,
        pub status_code: i32,
        pub reason_phrase: Option<String> = NullFirst,
    }
}

envelope!(
    EndpointFiltersRequest,
    EndpointFiltersResponse,
    EndpointListByFilterRequest,
    EndpointListByFilterResponse
);
