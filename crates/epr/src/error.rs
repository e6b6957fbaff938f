//! Why an operation failed.

use std::error::Error as StdError;

use ids::{AppVersionName, ApplicationName, EndpointId, InvalidId};

use crate::batch::SealError;
use crate::filters;
use crate::metadata::{Invalid, PatchError};

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("application version {0} does not exist")]
    UnknownVersion(AppVersionName),
    #[error(
        "application version {version} is not of application {application}, which the endpoint belongs to for ever"
    )]
    ForeignVersion { version: AppVersionName, application: ApplicationName },
    #[error("application versions cannot be looked up now ({0}); try again")]
    VersionsUnavailable(String),
    #[error("endpoint {0} does not exist")]
    UnknownEndpoint(EndpointId),
    #[error("endpointId {0} is taken; choose another")]
    EndpointExists(EndpointId),
    #[error("endpointId {0} is just being registered; try again in a few seconds")]
    Reserved(EndpointId),
    #[error("endpointId {0} is just being deleted; try again in a few seconds")]
    Deleting(EndpointId),
    #[error("the endpoint token was refused: {0}")]
    TokenTaken(String),
    #[error("the endpoint token was refused: {0}")]
    TokenInvalid(String),
    #[error("the endpoint was not registered, as it got no token ({0}); try again")]
    NoToken(String),
    #[error(
        "the endpoint was not registered, as it got no token in time; try again with \"endpointId\": \"{0}\", which \
         never registers twice"
    )]
    TokenLate(EndpointId),
    #[error(
        "endpoint {endpoint_id} is hidden, but not deleted yet, as its tokens could not be deleted ({reason}); that goes \
         on by itself, and the request may be repeated"
    )]
    TokensLeft { endpoint_id: EndpointId, reason: String },
    #[error("the endpoint has no metadata key {0}")]
    UnknownKey(String),
    #[error(
        "the metadata changed meanwhile: their ETag is \"{tag}\", which If-Match does not name; read them again"
    )]
    Changed { tag: String },
    #[error(transparent)]
    Patch(PatchError),
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The request breaks a rule or a limit.
    #[error("{0}")]
    Refused(String),
    /// The request does not fit what there is.
    #[error("{0}")]
    Conflict(String),
    #[error("{0}")]
    Unknown(String),
    #[error("the tenant has {max} batch tasks that are not finished (epr.batch_tasks_max): wait for one")]
    TooManyTasks { max: i64 },
    #[error("the time of the request is over, and nothing was changed")]
    TooLate,
    #[error("the service is stopping; try again")]
    Stopping,
    #[error(transparent)]
    Filters(#[from] filters::Error),
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error("a generated or stored name breaks its rule")]
    Name(#[from] InvalidId),
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
}

impl From<PatchError> for Error {
    fn from(error: PatchError) -> Self {
        match error {
            PatchError::Invalid(invalid) => Self::Invalid(invalid),
            other => Self::Patch(other),
        }
    }
}

impl Error {
    /// Whether two transactions stood in each other's way: then the same one succeeds when it is tried again.
    pub(crate) fn is_collision(&self) -> bool {
        let Self::Database(error) = self else { return false };
        let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
        // Deadlock, serialization failure.
        matches!(code.as_deref(), Some("40P01" | "40001"))
    }

    /// Whether the same request may succeed later, as it is.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::VersionsUnavailable(_)
                | Self::Reserved(_)
                | Self::Deleting(_)
                | Self::NoToken(_)
                | Self::TokenLate(_)
                | Self::TokensLeft { .. }
                | Self::Stopping
                | Self::Database(_)
        )
    }

    /// For the log: the error with all that lies behind it.
    pub(crate) fn as_dyn(&self) -> &(dyn StdError + 'static) {
        self
    }
}
