//! Why a message was not taken.

use std::borrow::Cow;

/// A message that was not taken: the status for the device, the reason with its fix, whether it may be different in a
/// moment, and what follows for its sender.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{status}: {reason}")]
pub(crate) struct Failure {
    pub(crate) status: u16,
    pub(crate) reason: Cow<'static, str>,
    /// True when the fault is ours and may pass: nobody answers, the store is down. Such a message is never acknowledged.
    /// False when the message itself is refused: sending it again changes nothing.
    pub(crate) passing: bool,
    pub(crate) sequel: Sequel,
}

/// What follows from a failure for the sender of the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sequel {
    Nothing,
    /// The message had a token that the register did not know: its sender may be guessing.
    Guessed,
    /// The sender may try again after so many seconds.
    Wait(u32),
    /// The sender's connection is not for such messages, and ends.
    Disconnect,
}

impl Failure {
    pub(crate) fn refused(status: u16, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { status, reason: reason.into(), passing: false, sequel: Sequel::Nothing }
    }

    pub(crate) fn passing(status: u16, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { status, reason: reason.into(), passing: true, sequel: Sequel::Nothing }
    }

    pub(crate) fn with(self, sequel: Sequel) -> Self {
        Self { sequel, ..self }
    }
}
