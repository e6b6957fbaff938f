//! Why an operation failed.

use ids::{ApplicationName, EndpointId, InvalidId, TokenId};

use crate::status::{InvalidStatus, Status};

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("endpoint {0} does not exist")]
    UnknownEndpoint(EndpointId),
    #[error("endpoint {endpoint_id} belongs to application {owner}, not to {application}")]
    OtherApplication { endpoint_id: EndpointId, application: ApplicationName, owner: String },
    #[error("endpoint {endpoint_id} has no token {token_id}")]
    UnknownToken { endpoint_id: EndpointId, token_id: TokenId },
    #[error("the application has no such endpoint token")]
    NoSuchToken,
    #[error("the endpoint token is taken; a token belongs to one endpoint of an application")]
    TokenTaken,
    #[error("the endpoint has the most tokens allowed, {0} (cm.tokens_per_endpoint_max); revoke one first")]
    TooManyTokens(i64),
    #[error("an endpoint token cannot be moved from {from} to {to}")]
    Transition { from: Status, to: Status },
    #[error("the endpoint register cannot be asked now ({0}); try again")]
    EndpointsUnavailable(String),
    #[error(transparent)]
    Status(#[from] InvalidStatus),
    #[error(transparent)]
    Invalid(#[from] InvalidId),
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
}
