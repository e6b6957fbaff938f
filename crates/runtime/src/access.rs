//! Credentials that the tenant manager knows: asked for over NATS and kept for a moment.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ids::{ApplicationName, CorrelationId, TenantId};
use ism::auth::{ACCESS_CHANGED, AUTHENTICATE_REQUEST, AUTHENTICATE_RESPONSE};
use ism::subject::instance;
use ism::{AccessChangedEvent, AuthenticationRequest, AuthenticationResponse, Record as _};
use quick_cache::sync::Cache;
use rest::{Access, Error, Role, Verify, Verifying};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use crate::subjects::Subjects;
use crate::{Context, RequestError, now_ms};

/// The name under which a process checks credentials, as whom it connects to NATS.
pub(crate) const NAME: &str = "edge";
/// Credentials that are kept; the least used go first.
const KNOWN_MAX: usize = 10_000;
/// How long an answer is trusted, if no change is announced before.
const KNOWN_FRESH: Duration = Duration::from_secs(30);
/// Wrong credentials that are kept, apart from the right ones, so that guessing drives none of those out.
const REFUSED_MAX: usize = 10_000;
const REFUSED_FRESH: Duration = Duration::from_secs(2);
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

type Digest = [u8; 32];

/// Asks the tenant manager. Credentials are kept as digests only.
pub(crate) struct Register {
    context: Context,
    known: Cache<Digest, Known>,
    refused: Cache<Digest, Refused>,
    /// Changes that were announced so far: an answer that was asked for before one may be from before it.
    changes: AtomicU64,
}

#[derive(Clone)]
struct Known {
    access: Arc<Access>,
    until: Instant,
}

#[derive(Clone)]
struct Refused {
    reason: Arc<str>,
    is_forbidden: bool,
    until: Instant,
}

impl Refused {
    fn error(&self) -> Error {
        let reason = self.reason.to_string();
        if self.is_forbidden { Error::forbidden(reason) } else { Error::unauthorized(reason) }
    }
}

impl std::fmt::Debug for Register {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Register").field("known", &self.known.len()).finish_non_exhaustive()
    }
}

/// What the checking of credentials needs on NATS.
pub(crate) fn subjects() -> Subjects {
    Subjects::new().asks(instance::TM, AUTHENTICATE_REQUEST).hears(ACCESS_CHANGED)
}

impl Register {
    /// Starts to follow changes of access.
    pub(crate) async fn start(context: &Context) -> anyhow::Result<Arc<Self>> {
        let mut events = context.subscribe(ACCESS_CHANGED.of_any(), None).await?;
        let register = Arc::new(Self {
            context: context.clone(),
            known: Cache::new(KNOWN_MAX),
            refused: Cache::new(REFUSED_MAX),
            changes: AtomicU64::new(0),
        });
        let follower = register.clone();
        context.spawn("follow changes of access", async move {
            while let Some(event) = events.next().await {
                match AccessChangedEvent::decode(&event.payload) {
                    Ok(event) => follower.forget(&event.tenant_id),
                    Err(error) => tracing::warn!(%error, "a change of access could not be read"),
                }
            }
            Ok(())
        });
        Ok(register)
    }

    fn forget(&self, tenant: &str) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        self.known.retain(|_, known| known.access.tenant.as_str() != tenant);
        // Something may be known now that was not.
        self.refused.clear();
    }

    async fn access(&self, credential: &str, correlation_id: &CorrelationId) -> Result<Arc<Access>, Error> {
        let digest: Digest = Sha256::digest(credential).into();
        if let Some(known) = self.known.get(&digest) {
            if is_fresh(&known) {
                return Ok(known.access);
            }
            self.known.remove_if(&digest, |kept| kept.until == known.until);
        }
        if let Some(refused) = self.refused.get(&digest).filter(|refused| Instant::now() < refused.until) {
            return Err(refused.error());
        }
        let guard = match self.known.get_value_or_guard_async(&digest).await {
            Ok(known) => return Ok(known.access),
            Err(guard) => guard,
        };
        let changes = self.changes.load(Ordering::Acquire);
        let response = self.ask(credential, correlation_id).await?;
        let code = response.status_code;
        match code {
            200 => {
                let access = Arc::new(read(response)?);
                if self.changes.load(Ordering::Acquire) == changes {
                    let until = Instant::now() + KNOWN_FRESH;
                    drop(guard.insert(Known { access: access.clone(), until }));
                }
                Ok(access)
            }
            401 | 403 => {
                let reason =
                    response.reason_phrase.unwrap_or_else(|| "the credentials are not valid".to_owned());
                let until = Instant::now() + REFUSED_FRESH;
                let refused = Refused { reason: reason.into(), is_forbidden: code == 403, until };
                if self.changes.load(Ordering::Acquire) == changes {
                    self.refused.insert(digest, refused.clone());
                }
                Err(refused.error())
            }
            code => {
                let reason = response.reason_phrase.unwrap_or_default();
                Err(Error::unavailable(format!("the credentials cannot be checked now: {code} {reason}")))
            }
        }
    }

    async fn ask(
        &self,
        credential: &str,
        correlation_id: &CorrelationId,
    ) -> Result<AuthenticationResponse, Error> {
        let request = AuthenticationRequest {
            correlation_id: correlation_id.to_string(),
            timestamp: now_ms(),
            timeout: i64::try_from(ASK_TIMEOUT.as_millis()).unwrap_or(i64::MAX),
            credential: credential.into(),
        };
        let subject = AUTHENTICATE_REQUEST.at(instance::TM);
        let (payload, headers) = (request.encode(), crate::trace::headers());
        let requester = self.context.requester();
        let asked = requester.request(subject, AUTHENTICATE_RESPONSE, payload, headers, ASK_TIMEOUT).await;
        let answer = asked.map_err(|error| match error {
            RequestError::NoResponders => Error::unavailable(
                "the credentials cannot be checked now: the tenant manager `tm` is not running",
            ),
            error => Error::unavailable(format!("the credentials cannot be checked now: {error}")),
        })?;
        AuthenticationResponse::decode(&answer.payload).map_err(Error::internal)
    }
}

impl Verify for Register {
    fn verify<'a>(&'a self, credential: &'a str, correlation_id: &'a CorrelationId) -> Verifying<'a> {
        Box::pin(self.access(credential, correlation_id))
    }
}

fn is_fresh(known: &Known) -> bool {
    Instant::now() < known.until && known.access.expires_at.is_none_or(|at| now_ms() < at)
}

fn read(response: AuthenticationResponse) -> Result<Access, Error> {
    let wrong =
        |what: &str| Error::internal(anyhow::anyhow!("the tenant manager's answer has no valid {what}"));
    let tenant = response.tenant_id.as_deref().and_then(|id| TenantId::parse(id).ok());
    let role = match response.role.as_deref() {
        Some(name) => Some(Role::parse(name).ok_or_else(|| wrong("role"))?),
        None => None,
    };
    let mut grants = BTreeMap::new();
    for (application, role) in &response.grants {
        let application = ApplicationName::parse(application).map_err(|_| wrong("application"))?;
        grants.insert(application, Role::parse(role).ok_or_else(|| wrong("role"))?);
    }
    let subject: Arc<str> = response.subject.ok_or_else(|| wrong("subject"))?.into();
    Ok(Access {
        tenant: tenant.ok_or_else(|| wrong("tenant"))?,
        name: response.name.map_or_else(|| subject.clone(), Arc::from),
        subject,
        role,
        grants,
        expires_at: response.expires_at,
    })
}
