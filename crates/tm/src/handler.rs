//! Answers every process of the platform whose credential a REST call shows.
//!
//! | status | |
//! |---|---|
//! | 200 | tenant, subject, name, role, grants, end |
//! | 401 | unknown, expired, revoked, forged; the user is disabled or gone |
//! | 403 | the tenant is disabled |
//! | 503 | the database or the issuer is away |

use std::sync::Arc;

use ism::auth::{AuthenticationRequest, AuthenticationResponse};

use crate::authenticator::{Authenticator, Refusal};

/// Answers one question.
pub(crate) async fn answer(
    authenticator: Arc<Authenticator>,
    request: AuthenticationRequest,
) -> AuthenticationResponse {
    let found = authenticator.authenticate(request.credential.as_str()).await;
    let response = AuthenticationResponse {
        correlation_id: request.correlation_id,
        timestamp: runtime::now_ms(),
        ..AuthenticationResponse::default()
    };
    match found {
        Ok(identity) => AuthenticationResponse {
            tenant_id: Some(identity.tenant.to_string()),
            subject: Some(identity.subject),
            name: Some(identity.name),
            role: identity.role.map(|role| role.to_string()),
            grants: identity.grants.iter().map(|(name, role)| (name.to_string(), role.to_string())).collect(),
            expires_at: identity.expires_at,
            status_code: 200,
            ..response
        },
        Err(refusal) => {
            if let Refusal::Failed(error) = &refusal {
                tracing::error!(error = error as &dyn std::error::Error, "a credential could not be checked");
            }
            let (status_code, reason) = (refusal.status(), refusal.to_string());
            AuthenticationResponse { status_code, reason_phrase: Some(reason), ..response }
        }
    }
}
