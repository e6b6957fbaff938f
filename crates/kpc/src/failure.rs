//! Why a message was not taken.

use std::borrow::Cow;

/// A message that was not taken: the status for the device, the reason with its fix, and whether it may be different
/// in a moment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{status}: {reason}")]
pub(crate) struct Failure {
    pub(crate) status: u16,
    pub(crate) reason: Cow<'static, str>,
    /// True when the fault is ours and may pass: nobody answers, the store is down. Such a message is never acknowledged.
    /// False when the message itself is refused: sending it again changes nothing.
    pub(crate) passing: bool,
}

impl Failure {
    pub(crate) fn refused(status: u16, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { status, reason: reason.into(), passing: false }
    }

    pub(crate) fn passing(status: u16, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { status, reason: reason.into(), passing: true }
    }
}
