//! Answers other services: 16/ECAP token validation and status transition, the making of first tokens, and the
//! deletion of an endpoint's tokens.
//!
//! | status | token validation | transition | making | deletion |
//! |---|---|---|---|---|
//! | 200, 201 | the endpoint's id | done, or so already | the token | there are none now |
//! | 400 | bad name or token | bad name, token or status | bad name or token | bad name |
//! | 403 | suspended or revoked | | | |
//! | 404 | unknown | unknown | | |
//! | 409 | | not from its present status | taken | |
//! | 429 | | | the endpoint has too many | |
//! | 503 | the database is away | same | same | same |

use std::sync::Arc;

use ids::{ApplicationName, EndpointId, EndpointToken, InvalidId, TenantId};
use ism::Secret;
use ism::ecap::{
    EndpointTokenStatusTransitionRequest, EndpointTokenStatusTransitionResponse,
    EndpointTokenValidationRequest, EndpointTokenValidationResponse,
};
use ism::tokens::{
    EndpointTokenCreateRequest, EndpointTokenCreateResponse, EndpointTokensDeleteRequest,
    EndpointTokensDeleteResponse,
};

use crate::error::Error;
use crate::registry::{Created, Registry};
use crate::status::Status;
use crate::store::{Found, Owner};

/// Status and reason of a failure, for a response record.
fn status_of(error: &Error) -> (i32, Option<String>) {
    let code = match error {
        Error::Invalid(_) | Error::Status(_) | Error::OtherApplication { .. } => 400,
        Error::UnknownEndpoint(_) | Error::UnknownToken { .. } | Error::NoSuchToken => 404,
        Error::TokenTaken | Error::Transition { .. } => 409,
        Error::TooManyTokens(_) => 429,
        Error::EndpointsUnavailable(_) => 503,
        Error::Database(source) => {
            tracing::error!(error = source as &dyn std::error::Error, "a request failed in the database");
            return (503, Some("the token register cannot use its database now".to_owned()));
        }
    };
    (code, Some(error.to_string()))
}

/// Answers whose token this is.
pub(crate) async fn validate(
    registry: Arc<Registry>,
    request: EndpointTokenValidationRequest,
) -> EndpointTokenValidationResponse {
    let found = async {
        let application = ApplicationName::parse(&request.app_name)?;
        let token = EndpointToken::parse(request.token.as_str())?;
        registry.validate(&application, &token).await
    };
    let (found, (status_code, reason_phrase)) = match found.await {
        Ok(Some(found)) => {
            let status = validity(&found);
            (Some(found), status)
        }
        Ok(None) => (None, (404, Some(Error::NoSuchToken.to_string()))),
        Err(error) => (None, status_of(&error)),
    };
    EndpointTokenValidationResponse {
        correlation_id: request.correlation_id,
        timestamp: runtime::now_ms(),
        timeout: 0,
        token_id: found.as_ref().map(|found| found.token_id.to_string()),
        endpoint_id: found.map(|found| found.endpoint_id),
        status_code,
        reason_phrase,
    }
}

fn validity(found: &Found) -> (i32, Option<String>) {
    match found.status {
        Status::Inactive | Status::Active => (200, None),
        Status::Suspended => (403, Some("the endpoint token is suspended".to_owned())),
        Status::Revoked => (403, Some("the endpoint token is revoked".to_owned())),
    }
}

/// Moves a token to another status.
pub(crate) async fn transit(
    registry: Arc<Registry>,
    request: EndpointTokenStatusTransitionRequest,
) -> EndpointTokenStatusTransitionResponse {
    let moved = async {
        let application = ApplicationName::parse(&request.app_name)?;
        let token = EndpointToken::parse(request.token.as_str())?;
        let target: Status = request.target_status.parse()?;
        registry.transit(&request.correlation_id, &application, &token, target).await
    };
    let (status_code, reason_phrase) = match moved.await {
        Ok(()) => (200, None),
        Err(error) => status_of(&error),
    };
    EndpointTokenStatusTransitionResponse {
        correlation_id: request.correlation_id,
        timestamp: runtime::now_ms(),
        timeout: 0,
        status_code,
        reason_phrase,
    }
}

/// Makes the first token of an endpoint. Asked again for the same endpoint and the same token wished for, the
/// answer is the same as long as nobody has used the token.
pub(crate) async fn create(
    registry: Arc<Registry>,
    request: EndpointTokenCreateRequest,
) -> EndpointTokenCreateResponse {
    let created = async {
        let (owner, wish) = read(&request)?;
        registry.create(&owner, wish, true).await
    };
    let (created, (status_code, reason_phrase)) = match created.await {
        Ok(created) => (Some(created), (201, None)),
        Err(error) => (None, status_of(&error)),
    };
    let (text, token) = created.map(|Created { text, token }| (text, token)).unzip();
    EndpointTokenCreateResponse {
        correlation_id: request.correlation_id,
        timestamp: runtime::now_ms(),
        timeout: 0,
        token_id: token.as_ref().map(|token| token.endpoint_token_id.to_string()),
        token: text.map(|text| Secret::from(text.as_str())),
        status: token.map(|token| token.status.to_string()),
        status_code,
        reason_phrase,
    }
}

fn read(request: &EndpointTokenCreateRequest) -> Result<(Owner, Option<EndpointToken>), InvalidId> {
    let owner = Owner {
        tenant: TenantId::parse(&request.tenant_id)?,
        application: ApplicationName::parse(&request.app_name)?,
        endpoint_id: EndpointId::parse(&request.endpoint_id)?,
    };
    let wish = request.token.as_ref().map(|token| EndpointToken::parse(token.as_str())).transpose()?;
    Ok((owner, wish))
}

/// Deletes all tokens of an endpoint that is being deleted; asked again, there are none, which is fine.
pub(crate) async fn delete(
    registry: Arc<Registry>,
    request: EndpointTokensDeleteRequest,
) -> EndpointTokensDeleteResponse {
    let deleted = async {
        let tenant = TenantId::parse(&request.tenant_id)?;
        let endpoint_id = EndpointId::parse(&request.endpoint_id)?;
        // The application is that of the endpoint; it need not be known, but it must be a name.
        ApplicationName::parse(&request.app_name)?;
        registry.delete_of_endpoint(&request.correlation_id, &tenant, &endpoint_id).await
    };
    let (status_code, reason_phrase) = match deleted.await {
        Ok(()) => (200, None),
        Err(error) => status_of(&error),
    };
    EndpointTokensDeleteResponse {
        correlation_id: request.correlation_id,
        timestamp: runtime::now_ms(),
        timeout: 0,
        status_code,
        reason_phrase,
    }
}
