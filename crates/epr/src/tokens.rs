//! Asks `cm` for the first token of an endpoint, and to delete all tokens of one.

use std::time::Duration;

use ids::{EndpointToken, InstanceName, TenantId};
use ism::tokens::{
    CREATE_REQUEST, CREATE_RESPONSE, DELETE_REQUEST, DELETE_RESPONSE, EndpointTokenCreateRequest,
    EndpointTokenCreateResponse, EndpointTokensDeleteRequest, EndpointTokensDeleteResponse,
};
use ism::{Record as _, Secret};
use runtime::{Context, RequestError};
use tokio::time::Instant;

use crate::domain::NewEndpoint;
use crate::store::Doomed;

/// The service instance that makes tokens.
const PROVIDER: &str = "cm";
const RETRY_DELAY: Duration = Duration::from_millis(100);
/// A request whose answer got lost is repeated after this part of the time, where a repetition makes no
/// second token.
const ATTEMPTS: u32 = 3;

/// A token as `cm` made it.
pub(crate) struct Token {
    pub(crate) token: Secret,
    pub(crate) status: String,
}

/// Why there is no token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NoToken {
    /// Another endpoint of the application has it.
    Taken(String),
    /// It breaks a rule.
    Invalid(String),
    /// None was made.
    Unavailable(String),
    /// None came in time; one may have been made, or be made yet.
    Unknown(String),
}

/// Asks for tokens. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Tokens {
    context: Context,
    provider: InstanceName,
    timeout: Duration,
}

impl Tokens {
    pub(crate) fn new(context: Context, timeout: Duration) -> Result<Self, ids::InvalidId> {
        Ok(Self { context, provider: InstanceName::parse(PROVIDER)?, timeout })
    }

    /// A token for an endpoint: the one wished for, or a new one.
    ///
    /// While no replica of `cm` is there, this tries again until the time is over. A lost answer is asked for
    /// again only for a token wished for: `cm` gives that to the same endpoint as often as asked.
    pub(crate) async fn create(
        &self,
        correlation_id: &str,
        tenant: &TenantId,
        endpoint: &NewEndpoint,
        wish: Option<&EndpointToken>,
    ) -> Result<Token, NoToken> {
        let deadline = Instant::now() + self.timeout;
        let mut perhaps_made = false;
        loop {
            let remaining = deadline.saturating_duration_since(Instant::now());
            let patience = if wish.is_some() { remaining.min(self.timeout / ATTEMPTS) } else { remaining };
            let reason = match self.attempt(correlation_id, tenant, endpoint, wish, patience).await {
                Ok(response) => match outcome(response) {
                    Err(NoToken::Unknown(reason)) => reason,
                    certain => return certain,
                },
                Err(RequestError::NoResponders) if Instant::now() + RETRY_DELAY >= deadline => {
                    let reason = RequestError::NoResponders.to_string();
                    return Err(if perhaps_made {
                        NoToken::Unknown(reason)
                    } else {
                        NoToken::Unavailable(reason)
                    });
                }
                Err(RequestError::NoResponders) => {
                    tokio::time::sleep(RETRY_DELAY).await;
                    continue;
                }
                Err(error) => error.to_string(),
            };
            perhaps_made = true;
            if wish.is_none() || Instant::now() + RETRY_DELAY >= deadline {
                return Err(NoToken::Unknown(reason));
            }
            tokio::time::sleep(RETRY_DELAY).await;
        }
    }

    async fn attempt(
        &self,
        correlation_id: &str,
        tenant: &TenantId,
        endpoint: &NewEndpoint,
        wish: Option<&EndpointToken>,
        patience: Duration,
    ) -> Result<EndpointTokenCreateResponse, RequestError> {
        let request = EndpointTokenCreateRequest {
            correlation_id: correlation_id.to_owned(),
            timestamp: runtime::now_ms(),
            timeout: millis(patience),
            tenant_id: tenant.to_string(),
            app_name: endpoint.application.to_string(),
            endpoint_id: endpoint.endpoint_id.to_string(),
            token: wish.map(|token| Secret::from(token.as_str())),
        };
        let answer = self
            .context
            .requester()
            .request(
                CREATE_REQUEST.service(&self.provider),
                CREATE_RESPONSE,
                request.encode(),
                runtime::trace::headers(),
                patience,
            )
            .await?;
        Ok(EndpointTokenCreateResponse::decode(&answer.payload).unwrap_or_else(|error| unreadable(&error)))
    }

    /// Deletes all tokens of an endpoint that is going. Done only when `cm` says so; the reason else. It may be asked
    /// for again at any time.
    pub(crate) async fn delete(&self, correlation_id: &str, doomed: &Doomed) -> Result<(), String> {
        let request = EndpointTokensDeleteRequest {
            correlation_id: correlation_id.to_owned(),
            timestamp: runtime::now_ms(),
            timeout: millis(self.timeout),
            tenant_id: doomed.tenant.to_string(),
            app_name: doomed.application.to_string(),
            endpoint_id: doomed.endpoint_id.to_string(),
        };
        let answer = self
            .context
            .requester()
            .request(
                DELETE_REQUEST.service(&self.provider),
                DELETE_RESPONSE,
                request.encode(),
                runtime::trace::headers(),
                self.timeout,
            )
            .await
            .map_err(|error| error.to_string())?;
        let response = EndpointTokensDeleteResponse::decode(&answer.payload)
            .map_err(|error| format!("the answer of {PROVIDER} cannot be read: {error}"))?;
        match response.status_code {
            200..300 => Ok(()),
            code => Err(response.reason_phrase.unwrap_or_else(|| format!("{PROVIDER} answered {code}"))),
        }
    }
}

fn millis(patience: Duration) -> i64 {
    i64::try_from(patience.as_millis()).unwrap_or(i64::MAX).max(1)
}

fn unreadable(error: &ism::DecodeError) -> EndpointTokenCreateResponse {
    EndpointTokenCreateResponse {
        status_code: 500,
        reason_phrase: Some(format!("the answer of {PROVIDER} cannot be read: {error}")),
        ..EndpointTokenCreateResponse::default()
    }
}

fn outcome(response: EndpointTokenCreateResponse) -> Result<Token, NoToken> {
    let code = response.status_code;
    let reason = || response.reason_phrase.clone().unwrap_or_else(|| format!("{PROVIDER} answered {code}"));
    match (code, &response.token, &response.status) {
        (200 | 201, Some(token), Some(status)) => Ok(Token { token: token.clone(), status: status.clone() }),
        (409, ..) => Err(NoToken::Taken(reason())),
        (400..500, ..) => Err(NoToken::Invalid(reason())),
        _ => Err(NoToken::Unknown(reason())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status_code: i32, token: Option<&str>) -> EndpointTokenCreateResponse {
        EndpointTokenCreateResponse {
            status_code,
            token: token.map(Secret::from),
            status: token.map(|_| "Inactive".to_owned()),
            ..EndpointTokenCreateResponse::default()
        }
    }

    #[test]
    fn only_a_clear_refusal_is_taken_for_one() {
        assert_eq!(outcome(response(200, Some("t"))).ok().unwrap().token.as_str(), "t");
        assert!(matches!(outcome(response(409, None)), Err(NoToken::Taken(_))));
        assert!(matches!(outcome(response(400, None)), Err(NoToken::Invalid(_))));
        assert!(matches!(outcome(response(503, None)), Err(NoToken::Unknown(_))));
        assert!(matches!(outcome(response(200, None)), Err(NoToken::Unknown(_))));
    }
}
