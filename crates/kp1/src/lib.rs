//! The grammar of the Kaa Protocol v1 (1/KP): what stands in an MQTT topic or an HTTP path, and where answers go.
//!
//! ```text
//! kp1/<application version>/<extension>/<token>/<resource path>[/<request id>]     a request
//! kp1/<application version>/<extension>/<resource path>[/<request id>]             to an extension that knows no endpoints
//! <request topic>/status                                                          its answer
//! <request topic>/error                                                           its refusal
//! ```
//!
//! Slashes are significant: `json/` is not `json`. A last level that is a non-negative integer is the request id and no
//! part of the resource path. Nothing here knows which extensions exist, or which of them know endpoints.

mod answer;
mod error;
mod filter;
mod path;
mod pattern;

pub use answer::{ErrorBody, Outcome, response_topic, topic};
pub use error::PathError;
pub use filter::{FilterTarget, TopicFilter};
pub use path::{RequestPath, Target, percent_decode};
pub use pattern::{MAX_VARIABLE_LEVELS, PatternError, TopicPattern};

/// The longest topic, topic filter or path, in bytes of UTF-8.
pub const MAX_TOPIC_BYTES: usize = 1024;
/// The most levels of a topic, topic filter or path.
pub const MAX_LEVELS: usize = 32;
