//! What a failed commit means for the messages in it.

/// What to do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// Another point has one of the server times given here: give others and try again.
    Restamp,
    /// Another replica was in the way, and nothing was written: try again.
    Conflict,
    /// A partition that was known is gone: look again.
    PartitionGone,
    /// The database refuses what one of the messages holds.
    Data,
    /// The database is not there, or its answer was lost: nobody knows what was written.
    Unavailable,
    /// Anything else: ours.
    Internal,
}

impl Cause {
    /// The name under which such failures are counted.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Restamp => "restamp",
            Self::Conflict => "conflict",
            Self::PartitionGone => "partition-gone",
            Self::Data => "data",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }

    pub(super) fn of(error: &sqlx::Error) -> Self {
        match error {
            sqlx::Error::Database(error) => {
                let code = error.code().unwrap_or_default();
                // A row for which there is no partition breaks a check that has no name.
                if code == "23514" && error.constraint().is_none() {
                    Self::PartitionGone
                } else {
                    Self::of_code(&code)
                }
            }
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => Self::Unavailable,
            _ => Self::Internal,
        }
    }

    /// By SQLSTATE.
    fn of_code(code: &str) -> Self {
        match code {
            // unique_violation; cardinality_violation: a server time met a device's in the same statement.
            "23505" | "21000" => Self::Restamp,
            // serialization_failure, deadlock_detected, lock_not_available
            "40001" | "40P01" | "55P03" => Self::Conflict,
            // query_canceled (statement_timeout), read_only_sql_transaction (a standby), idle_in_transaction_timeout
            "57014" | "25006" | "25P03" => Self::Unavailable,
            _ => match code.get(..2) {
                // Values that a type or a constraint does not admit.
                Some("22" | "23") => Self::Data,
                // Connection, resources, limits, operator intervention, system.
                Some("08" | "53" | "54" | "57" | "58") => Self::Unavailable,
                _ => Self::Internal,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_their_meaning() {
        for (code, cause) in [
            ("23505", Cause::Restamp),
            ("40P01", Cause::Conflict),
            ("22P05", Cause::Data),
            ("22003", Cause::Data),
            ("23514", Cause::Data),
            ("57P01", Cause::Unavailable),
            ("53100", Cause::Unavailable),
            ("08006", Cause::Unavailable),
            ("42P01", Cause::Internal),
            ("", Cause::Internal),
        ] {
            assert_eq!(Cause::of_code(code), cause, "{code}");
        }
        assert_eq!(Cause::of(&sqlx::Error::PoolTimedOut), Cause::Unavailable);
        assert_eq!(Cause::of(&sqlx::Error::RowNotFound), Cause::Internal);
    }
}
