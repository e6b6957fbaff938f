//! The life of a token.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The status of a token.
///
/// | status | meaning | leads to |
/// |---|---|---|
/// | `Inactive` | never used | `Active` by first use; `Suspended`, `Revoked` |
/// | `Active` | used | `Suspended`, `Revoked` |
/// | `Suspended` | refused | `Active`, `Revoked` |
/// | `Revoked` | refused for ever | nothing |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) enum Status {
    Inactive,
    Active,
    Suspended,
    Revoked,
}

/// A text is no status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a token status is one of Inactive, Active, Suspended, Revoked")]
pub(crate) struct InvalidStatus;

impl Status {
    const ALL: [Self; 4] = [Self::Inactive, Self::Active, Self::Suspended, Self::Revoked];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Inactive => "Inactive",
            Self::Active => "Active",
            Self::Suspended => "Suspended",
            Self::Revoked => "Revoked",
        }
    }

    /// Whether an endpoint with a token of this status is let in.
    pub(crate) const fn is_valid(self) -> bool {
        matches!(self, Self::Inactive | Self::Active)
    }

    /// Whether a token may be moved to another status.
    pub(crate) const fn leads_to(self, target: Self) -> bool {
        matches!(
            (self, target),
            (Self::Inactive, Self::Active | Self::Suspended | Self::Revoked)
                | (Self::Active, Self::Suspended | Self::Revoked)
                | (Self::Suspended, Self::Active | Self::Revoked)
        )
    }
}

impl FromStr for Status {
    type Err = InvalidStatus;

    fn from_str(text: &str) -> Result<Self, InvalidStatus> {
        Self::ALL.into_iter().find(|status| status.as_str() == text).ok_or(InvalidStatus)
    }
}

impl TryFrom<String> for Status {
    type Error = InvalidStatus;

    fn try_from(text: String) -> Result<Self, InvalidStatus> {
        text.parse()
    }
}

impl fmt::Display for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_moves_only_where_its_life_leads() {
        let legal: Vec<_> = Status::ALL
            .into_iter()
            .flat_map(|from| Status::ALL.into_iter().map(move |to| (from, to)))
            .filter(|(from, to)| from.leads_to(*to))
            .collect();
        let expected = [
            (Status::Inactive, Status::Active),
            (Status::Inactive, Status::Suspended),
            (Status::Inactive, Status::Revoked),
            (Status::Active, Status::Suspended),
            (Status::Active, Status::Revoked),
            (Status::Suspended, Status::Active),
            (Status::Suspended, Status::Revoked),
        ];
        assert_eq!(legal, expected);
    }

    #[test]
    fn a_status_is_read_as_it_is_written() {
        for status in Status::ALL {
            assert_eq!(status.to_string().parse(), Ok(status));
        }
        assert_eq!("active".parse::<Status>(), Err(InvalidStatus));
    }
}
