//! Why bytes are not a record.

use std::fmt;

/// Bytes that are not the record they should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodeError {
    /// The record that was expected.
    pub record: &'static str,
    /// The innermost record and field that were being read; none when the record itself was complete.
    pub place: Option<(&'static str, &'static str)>,
    /// How far reading had come, in bytes from the start.
    pub offset: usize,
    /// What was wrong there.
    pub fault: Fault,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "this is no {}: ", self.record)?;
        if let Some((record, field)) = self.place {
            write!(formatter, "{record}.{field}: ")?;
        }
        write!(formatter, "{} (at byte {})", self.fault, self.offset)
    }
}

impl std::error::Error for DecodeError {}

/// What is wrong with the bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The bytes end inside a value.
    #[error("the message ends too early")]
    Truncated,
    /// A number does not fit 64 bits.
    #[error("a number takes more than 64 bits")]
    TooLongNumber,
    /// A number does not fit Avro's `int`.
    #[error("{0} does not fit an int")]
    NotAnInt(i64),
    /// A length is negative or goes beyond the end of the message.
    #[error("a length of {0} is negative or goes beyond the end of the message")]
    Length(i64),
    /// A boolean is neither 0 nor 1.
    #[error("{0} is no boolean")]
    NotABoolean(u8),
    /// The union has no such branch.
    #[error("the union has no branch {0}")]
    NoSuchBranch(i64),
    /// A string is not UTF-8.
    #[error("a string is not UTF-8")]
    NotUtf8,
    /// A map has the same key twice.
    #[error("a map has the same key twice")]
    DuplicateKey,
    /// The byte size that a block of items declares is not the size of its items.
    #[error("a block's size in bytes is not that of its items")]
    BlockSize,
    /// Arrays and maps hold more than [`MAX_ITEMS`](crate::MAX_ITEMS) items in all.
    #[error("more than {limit} items in arrays and maps", limit = crate::MAX_ITEMS)]
    TooManyItems,
    /// Bytes follow the record.
    #[error("{0} bytes follow the record")]
    Trailing(usize),
}
