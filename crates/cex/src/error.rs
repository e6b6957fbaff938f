//! Why something that a caller wants is not done.

use extension::Refusal;
use ids::EndpointId;

use crate::domain::CommandName;

/// Why something that a caller wants is not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("endpoint {0} does not exist")]
    UnknownEndpoint(EndpointId),
    /// So many, and some of them.
    #[error("{0} of the endpoints do not exist: {1}")]
    UnknownEndpoints(usize, String),
    #[error("command {0} does not exist")]
    UnknownCommand(CommandName),
    #[error("there is no such {0}")]
    Unknown(&'static str),
    #[error("the endpoint register cannot be asked now ({0}); try again")]
    RegisterUnavailable(String),
    #[error(
        "endpoint {endpoint_id} has {outstanding} outstanding commands, and may have no more (cex.outstanding_per_endpoint_max); wait for results, or cancel some"
    )]
    TooMany { endpoint_id: EndpointId, outstanding: u32 },
    #[error(
        "{0} batches of the tenant have not ended, and there may be no more (cex.batches_open_max); wait, or cancel some"
    )]
    TooManyBatches(i64),
    #[error("the thing listens at {0} topics, and may at no more; subscribe to those that it needs")]
    TooManyTopics(i64),
    #[error("the Idempotency-Key belongs to another request; choose another key")]
    KeyReused,
    /// The request breaks a rule or a limit.
    #[error("{0}")]
    Refused(String),
    /// The caller may not.
    #[error("{0}")]
    Forbidden(String),
    /// The request does not fit what there is.
    #[error("{0}")]
    Conflict(String),
    #[error("the ledger cannot be reached")]
    Database(#[from] sqlx::Error),
}

impl From<Error> for rest::Error {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::UnknownEndpoint(_)
            | Error::UnknownEndpoints(..)
            | Error::UnknownCommand(_)
            | Error::Unknown(_) => Self::not_found(message),
            Error::RegisterUnavailable(_) => Self::unavailable(message),
            Error::TooMany { .. } | Error::TooManyBatches(_) | Error::TooManyTopics(_) => {
                Self::too_many(message)
            }
            Error::Refused(_) => Self::bad_request(message),
            Error::Forbidden(_) => Self::forbidden(message),
            Error::KeyReused | Error::Conflict(_) => Self::conflict(message),
            Error::Database(error) => error.into(),
        }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::UnknownEndpoint(_)
            | Error::UnknownEndpoints(..)
            | Error::UnknownCommand(_)
            | Error::Unknown(_) => Self::not_found(message),
            // Nothing has been done: the gateway may repeat the message.
            Error::RegisterUnavailable(_) => Self::unavailable(message),
            Error::TooMany { .. } | Error::TooManyBatches(_) | Error::TooManyTopics(_) => {
                Self::new(429, message)
            }
            Error::Refused(_) => Self::bad_request(message),
            Error::Forbidden(_) => Self::new(403, message),
            Error::KeyReused | Error::Conflict(_) => Self::new(409, message),
            Error::Database(error) => {
                tracing::error!(%error, "the ledger failed");
                // It may have been done.
                Self::timeout("the ledger of commands did not answer; try again")
            }
        }
    }
}
