//! The life of credentials and authorities.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The state of credentials, as that of tokens in `cm`. An authority has the same, except that it is never `Inactive`.
///
/// | state | meaning | leads to |
/// |---|---|---|
/// | `Inactive` | never used | `Active` by first use; `Suspended`, `Revoked` |
/// | `Active` | used | `Suspended`, `Revoked` |
/// | `Suspended` | refused | `Active`, `Revoked` |
/// | `Revoked` | refused for ever | nothing |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) enum State {
    Inactive,
    Active,
    Suspended,
    Revoked,
}

/// A text is no state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a state is one of Inactive, Active, Suspended, Revoked")]
pub(crate) struct InvalidState;

impl State {
    const ALL: [Self; 4] = [Self::Inactive, Self::Active, Self::Suspended, Self::Revoked];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Inactive => "Inactive",
            Self::Active => "Active",
            Self::Suspended => "Suspended",
            Self::Revoked => "Revoked",
        }
    }

    /// Whether a client is let in.
    pub(crate) const fn is_usable(self) -> bool {
        matches!(self, Self::Inactive | Self::Active)
    }

    /// Whether somebody may change it so.
    pub(crate) const fn leads_to(self, target: Self) -> bool {
        matches!(
            (self, target),
            (Self::Inactive, Self::Active | Self::Suspended | Self::Revoked)
                | (Self::Active, Self::Suspended | Self::Revoked)
                | (Self::Suspended, Self::Active | Self::Revoked)
        )
    }
}

impl FromStr for State {
    type Err = InvalidState;

    fn from_str(text: &str) -> Result<Self, InvalidState> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or(InvalidState)
    }
}

impl TryFrom<String> for State {
    type Error = InvalidState;

    fn try_from(text: String) -> Result<Self, InvalidState> {
        text.parse()
    }
}

impl fmt::Display for State {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leads_out_of_revoked_or_back_to_inactive() {
        for state in State::ALL {
            assert!(!State::Revoked.leads_to(state));
            assert!(!state.leads_to(State::Inactive));
            assert!(!state.leads_to(state));
            assert_eq!(state.leads_to(State::Revoked), state != State::Revoked);
            assert_eq!(state.leads_to(State::Suspended), state.is_usable());
        }
        assert!(State::Suspended.leads_to(State::Active));
    }

    #[test]
    fn a_state_is_read_as_it_is_written() {
        for state in State::ALL {
            assert_eq!(state.to_string().parse(), Ok(state));
        }
        assert_eq!("active".parse::<State>(), Err(InvalidState));
    }
}
