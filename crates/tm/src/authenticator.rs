//! Whose credential is this? Access tokens of the service's own, tokens of external issuers, API keys.

use std::borrow::Cow;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use ids::TenantId;
use rest::Role;

use crate::domain::Grants;
use crate::error::Error;
use crate::keyring::{KeyRing, Untrusted};
use crate::metrics::{CredentialKind, Metrics};
use crate::oidc::{Issuers, NotTaken};
use crate::principals::Principals;
use crate::secret::digest;
use crate::store::{Principal, Store, TenantState};
use crate::token::{self, ALGORITHM, LEEWAY_S, Unverified};

/// The longest credential that is looked at, in bytes.
pub(crate) const CREDENTIAL_BYTES_MAX: usize = 8 * 1_024;

/// Who calls, and what he may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) tenant: TenantId,
    pub(crate) subject: String,
    pub(crate) name: String,
    pub(crate) role: Option<Role>,
    pub(crate) grants: Grants,
    /// In milliseconds since the Unix epoch.
    pub(crate) expires_at: Option<i64>,
}

/// Why a credential is not taken. The texts are for the caller and tell nothing about other people's credentials.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// 401
    #[error("{0}")]
    Unknown(Cow<'static, str>),
    /// 403
    #[error("{0}")]
    Disabled(String),
    /// 503
    #[error("credentials cannot be checked now; try again")]
    Unavailable,
    /// 503, and for the log.
    #[error("credentials cannot be checked now; try again")]
    Failed(#[source] Error),
}

impl Refusal {
    pub(crate) fn status(&self) -> i32 {
        match self {
            Self::Unknown(_) => 401,
            Self::Disabled(_) => 403,
            Self::Unavailable | Self::Failed(_) => 503,
        }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

const UNKNOWN_KEY: Refusal =
    Refusal::Unknown(Cow::Borrowed("the API key is unknown, has expired or is revoked"));
const REVOKED_TOKEN: Refusal = Refusal::Unknown(Cow::Borrowed(
    "the token is not valid any more: the user or API key has changed; log in again",
));

/// Looks into credentials.
pub(crate) struct Authenticator {
    pub(crate) store: Store,
    pub(crate) keyring: Arc<KeyRing>,
    pub(crate) principals: Arc<Principals>,
    pub(crate) issuers: Issuers,
    pub(crate) metrics: Metrics,
}

impl Authenticator {
    /// Whose credential it is.
    pub(crate) async fn authenticate(&self, credential: &str) -> Result<Identity, Refusal> {
        if credential.is_empty() || credential.len() > CREDENTIAL_BYTES_MAX {
            let message = format!("a credential must have 1 to {CREDENTIAL_BYTES_MAX} bytes");
            return Err(Refusal::Unknown(message.into()));
        }
        let (kind, found) = match token::peek(credential) {
            None => (CredentialKind::ApiKey, self.api_key(credential).await),
            Some(peeked) if peeked.issuer.as_deref() == Some(self.keyring.issuer()) => {
                (CredentialKind::OwnToken, self.own_token(credential, &peeked).await)
            }
            Some(peeked) => (CredentialKind::ExternalToken, self.external_token(credential, &peeked).await),
        };
        self.metrics.authenticated(kind, found.as_ref().map_or_else(Refusal::status, |_| 200));
        found
    }

    /// A key is found by its digest, so that the time this takes tells nothing about the keys that there are.
    async fn api_key(&self, key: &str) -> Result<Identity, Refusal> {
        let found = self.store.api_key_principal(&digest(key)).await?;
        let principal = found.ok_or(UNKNOWN_KEY)?;
        let identity = admit(&principal, UNKNOWN_KEY, None)?;
        if principal.is_use_due
            && let Err(error) = self.store.api_key_used(&principal.subject).await
        {
            tracing::warn!(error = &error as &dyn std::error::Error, "the use of an API key cannot be noted");
        }
        Ok(identity)
    }

    async fn own_token(&self, credential: &str, peeked: &Unverified) -> Result<Identity, Refusal> {
        if peeked.algorithm != Some(ALGORITHM) {
            return Err(untrusted("its algorithm is not allowed"));
        }
        let kid = peeked.kid.as_deref().ok_or_else(|| untrusted("it names no key"))?;
        let claims = self.keyring.verify(credential, kid).await.map_err(|error| match error {
            Untrusted::Key => untrusted(&error.to_string()),
            Untrusted::Token(error) => untrusted(&error.to_string()),
        })?;
        // What counts is what the user is now, not what he was when the token was made.
        let principal = self.principals.subject(claims.typ, &claims.sub, claims.ver).await?;
        let principal = principal.ok_or(REVOKED_TOKEN)?;
        if principal.tenant.as_str() != claims.tenant || principal.token_version != claims.ver {
            return Err(REVOKED_TOKEN);
        }
        admit(&principal, REVOKED_TOKEN, Some(claims.exp))
    }

    async fn external_token(&self, credential: &str, peeked: &Unverified) -> Result<Identity, Refusal> {
        let external = self.issuers.verify(credential, peeked).await.map_err(|error| match error {
            NotTaken::Unavailable => Refusal::Unavailable,
            error => untrusted(&error.to_string()),
        })?;
        let tenant = TenantId::parse(&external.tenant).map_err(|_| untrusted("its tenant does not exist"))?;
        match self.principals.tenant(&tenant).await? {
            TenantState::Unknown => Err(untrusted("its tenant does not exist")),
            TenantState::Disabled => Err(disabled(&tenant)),
            TenantState::Enabled => Ok(Identity {
                tenant,
                subject: external.subject,
                name: external.name,
                role: external.role,
                grants: Grants::new(),
                expires_at: Some(token_end_ms(external.expires_at)),
            }),
        }
    }
}

/// Lets a user or key in as it is now; `not` when it is not to be known any more.
fn admit(principal: &Principal, not: Refusal, token_expires_s: Option<i64>) -> Result<Identity, Refusal> {
    let is_expired = principal.expires_at.is_some_and(|expires_at| expires_at <= Utc::now());
    if !principal.enabled || is_expired {
        return Err(not);
    }
    if !principal.tenant_enabled {
        return Err(disabled(&principal.tenant));
    }
    let own = principal.expires_at.map(|expires_at: DateTime<Utc>| expires_at.timestamp_millis());
    let expires_at = own.into_iter().chain(token_expires_s.map(token_end_ms)).min();
    Ok(Identity {
        tenant: principal.tenant.clone(),
        subject: principal.subject.clone(),
        name: principal.name.clone(),
        role: principal.role,
        grants: principal.grants.clone(),
        expires_at,
    })
}

/// The end of a token, with what clocks may differ by.
fn token_end_ms(expires_s: i64) -> i64 {
    let leeway = i64::try_from(LEEWAY_S).unwrap_or_default();
    expires_s.saturating_add(leeway).saturating_mul(1_000)
}

fn untrusted(reason: &str) -> Refusal {
    Refusal::Unknown(format!("the token is not accepted: {reason}").into())
}

fn disabled(tenant: &TenantId) -> Refusal {
    Refusal::Disabled(Error::TenantDisabled(tenant.clone()).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::SubjectKind;
    use chrono::Duration;

    fn principal() -> Principal {
        Principal {
            kind: SubjectKind::ApiKey,
            tenant: TenantId::parse("acme").unwrap(),
            tenant_enabled: true,
            subject: "k".to_owned(),
            name: "Key".to_owned(),
            role: Some(Role::Viewer),
            grants: Grants::new(),
            enabled: true,
            token_version: 0,
            expires_at: None,
            is_use_due: false,
        }
    }

    fn status(principal: &Principal) -> i32 {
        admit(principal, UNKNOWN_KEY, None).map_or_else(|refusal| refusal.status(), |_| 200)
    }

    #[test]
    fn only_what_is_valid_now_is_let_in() {
        assert_eq!(status(&principal()), 200);
        assert_eq!(status(&Principal { enabled: false, ..principal() }), 401);
        assert_eq!(status(&Principal { tenant_enabled: false, ..principal() }), 403);
        let past = Some(Utc::now() - Duration::seconds(1));
        assert_eq!(status(&Principal { expires_at: past, ..principal() }), 401);
        assert_eq!(status(&Principal { expires_at: past, tenant_enabled: false, ..principal() }), 401);
    }

    #[test]
    fn an_identity_ends_with_the_first_of_what_it_rests_on() {
        let ends = |principal: &Principal, token| admit(principal, UNKNOWN_KEY, token).unwrap().expires_at;
        assert_eq!(ends(&principal(), None), None);
        assert_eq!(ends(&principal(), Some(100)), Some(160_000));
        let soon = Utc::now() + Duration::seconds(5);
        let key = Principal { expires_at: Some(soon), ..principal() };
        assert_eq!(ends(&key, Some(i64::MAX)), Some(soon.timestamp_millis()));
    }
}
