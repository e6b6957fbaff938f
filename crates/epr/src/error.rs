//! Why an operation failed.

use ids::{AppVersionName, EndpointId, InvalidId};

use crate::domain::Invalid;

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("application version {0} does not exist")]
    UnknownVersion(AppVersionName),
    #[error("application versions cannot be looked up now ({0}); try again")]
    VersionsUnavailable(String),
    #[error("endpoint {0} does not exist")]
    UnknownEndpoint(EndpointId),
    #[error("endpointId {0} is taken; choose another")]
    EndpointExists(EndpointId),
    #[error("endpointId {0} is just being registered; try again in a few seconds")]
    Reserved(EndpointId),
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
    #[error(transparent)]
    Invalid(#[from] Invalid),
    #[error("a generated or stored name breaks its rule")]
    Name(#[from] InvalidId),
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
}
