//! Why an operation on filters failed.

use ids::ApplicationName;

use super::parse::InvalidQuery;

/// Why an operation on filters failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Query(#[from] InvalidQuery),
    #[error("{0}")]
    Invalid(String),
    #[error("application {0} does not exist")]
    UnknownApplication(ApplicationName),
    #[error("applications cannot be looked up now ({0}); try again")]
    ApplicationsUnavailable(String),
    #[error("filter {0:.64} does not exist")]
    UnknownFilter(String),
    #[error("the application has a filter {0:?} already; choose another name")]
    NameTaken(String),
    #[error(
        "the application has {max} filters, as many as it may have (epr.filters.per_application_max); delete one first"
    )]
    TooMany { max: i64 },
    #[error("filter {0} is PENDING: its endpoints are still being looked at; try again when it is ACTIVE")]
    Pending(uuid::Uuid),
    #[error(
        "the filter changed meanwhile: its ETag is \"{tag}\", which If-Match does not name; read it again"
    )]
    Changed { tag: String },
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
}

impl From<Error> for rest::Error {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::Query(_) | Error::Invalid(_) => Self::bad_request(message),
            Error::UnknownApplication(_) | Error::UnknownFilter(_) => Self::not_found(message),
            Error::NameTaken(_) | Error::TooMany { .. } | Error::Pending(_) => Self::conflict(message),
            Error::Changed { .. } => Self::precondition_failed(message),
            Error::ApplicationsUnavailable(_) => Self::unavailable(message),
            Error::Database(source) => source.into(),
        }
    }
}
