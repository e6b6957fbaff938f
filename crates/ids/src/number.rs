//! Identifiers that are numbers.

use std::fmt;

/// The request id of 1/KP: a non-negative integer that fits Avro's `int`. Real clients use 0 too.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(i32);

/// A number is not a request id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a request id must be an integer from 0 to 2147483647")]
pub struct InvalidRequestId;

impl RequestId {
    /// The number, as it stands in the Avro records.
    #[must_use]
    pub fn get(self) -> i32 {
        self.0
    }
}

impl TryFrom<i32> for RequestId {
    type Error = InvalidRequestId;

    fn try_from(number: i32) -> Result<Self, InvalidRequestId> {
        if number < 0 { Err(InvalidRequestId) } else { Ok(Self(number)) }
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}
