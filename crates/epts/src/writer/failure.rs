//! What a failed commit means for the messages in it.

use sqlx::postgres::{PgDatabaseError, PgSeverity};

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
    /// The database is not there, cannot write now, or its answer was lost. [`leaves_nothing`] tells these apart.
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
            sqlx::Error::Database(_) if !leaves_nothing(error) => Self::Unavailable,
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

/// Whether nothing of a statement that failed with this error is in the database.
///
/// That is certain when the server answers that the statement failed, for then it has undone it, also at the statement
/// timeout: a commit that can no longer be undone is never answered with an ERROR. What ends the session (FATAL, PANIC)
/// may come after the commit, and when the connection is lost nobody tells.
pub(super) fn leaves_nothing(error: &sqlx::Error) -> bool {
    match error {
        // It was not sent.
        sqlx::Error::Encode(_) => true,
        sqlx::Error::Database(error) => {
            let severity = error.try_downcast_ref().map(PgDatabaseError::severity);
            matches!(severity, Some(PgSeverity::Error))
                && !is_about_session(&error.code().unwrap_or_default())
        }
        _ => false,
    }
}

/// Codes that tell of the connection or the session, and not of the statement, whoever between here and the server they
/// come from: connection_exception, statement_completion_unknown, shutdowns and terminations.
fn is_about_session(code: &str) -> bool {
    code.starts_with("08") || code.starts_with("57P") || code == "40003"
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

    #[test]
    fn only_an_answer_about_the_statement_tells_that_nothing_was_written() {
        for code in ["08006", "08007", "40003", "57P01", "57P02", "57P05"] {
            assert!(is_about_session(code), "{code}");
        }
        for code in ["40001", "40P01", "53100", "25006", "57014", "23505"] {
            assert!(!is_about_session(code), "{code}");
        }
        assert!(leaves_nothing(&sqlx::Error::Encode("x".into())));
        for lost in [
            sqlx::Error::Io(std::io::ErrorKind::UnexpectedEof.into()),
            sqlx::Error::Protocol("x".to_owned()),
            sqlx::Error::WorkerCrashed,
            sqlx::Error::RowNotFound,
        ] {
            assert!(!leaves_nothing(&lost), "{lost}");
        }
    }
}
