//! From endpoint tokens to endpoints (16/ECAP), remembered for a while.
//!
//! Valid tokens are kept in one bounded cache and refused ones, for a short time, in another, so that guessing cannot
//! drive valid tokens out. Many messages with a token that is not known yet ask once. A revocation takes effect at
//! once: the event removes the token here, and answers that were under way when it came are not kept.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use ids::{ApplicationName, CorrelationId, EndpointId, EndpointToken, TenantId, TokenId};
use ism::Record as _;
use ism::ecap::{
    self, EndpointTokenRevokedEvent, EndpointTokenValidationRequest, EndpointTokenValidationResponse,
};
use ism::subject::instance;
use quick_cache::sync::Cache;
use runtime::{RequestError, Requester, now_ms};
use tokio::time::Instant;

use crate::config;
use crate::failure::{Failure, Sequel};
use crate::limits::Rate;
use crate::metrics::Metrics;
use crate::revocations::Revocations;
use crate::traffic::{Counters, Traffic};

/// An endpoint, as one of its tokens identifies it.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) endpoint: EndpointId,
    pub(crate) token: EndpointToken,
    /// The token's id, by which it is revoked; a provider may give none.
    pub(crate) token_id: Option<TokenId>,
    /// The address where the token was shown last, as the throttle numbers it; 0: not yet.
    pub(crate) last_from: AtomicU64,
    /// How many messages it may send.
    pub(crate) rate: Rate,
    /// What it sends and is sent.
    pub(crate) traffic: Arc<Counters>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    application: ApplicationName,
    token: EndpointToken,
}

#[derive(Clone)]
struct Valid {
    identity: Arc<Identity>,
    until: Instant,
}

#[derive(Clone)]
struct Refused {
    failure: Failure,
    until: Instant,
}

/// Resolves endpoint tokens.
pub(crate) struct Identities {
    requester: Requester,
    config: config::Tokens,
    messages_per_second: u32,
    valid: Cache<Key, Valid>,
    refused: Cache<Key, Refused>,
    /// The endpoints whose tokens were revoked, so that an answer from before a revocation is not kept after it.
    revocations: Revocations,
    traffic: Traffic,
    metrics: Arc<Metrics>,
}

impl Identities {
    pub(crate) fn new(
        requester: Requester,
        config: config::Tokens,
        messages_per_second: u32,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            requester,
            messages_per_second,
            valid: Cache::new(config.valid_max),
            refused: Cache::new(config.refused_max),
            revocations: Revocations::default(),
            traffic: Traffic::new(),
            config,
            metrics,
        }
    }

    /// The endpoint that the token belongs to in the application of the tenant.
    ///
    /// # Errors
    /// 401 when there is no such token, 403 when it may not be used, 503 when that cannot be told now. An unknown token
    /// counts as guessed when it had to be asked for, not again while the refusal is remembered: a device that goes on
    /// with one wrong token does not guess.
    pub(crate) async fn resolve(
        &self,
        tenant: &TenantId,
        application: &ApplicationName,
        token: &EndpointToken,
        correlation_id: &CorrelationId,
    ) -> Result<Arc<Identity>, Failure> {
        let key = Key { application: application.clone(), token: token.clone() };
        if let Some(valid) = self.valid.get(&key) {
            if Instant::now() < valid.until {
                self.metrics.token_lookup("cached");
                return Ok(valid.identity);
            }
            self.valid.remove_if(&key, |kept| kept.until == valid.until);
        }
        self.check_refused(&key)?;
        let guard = match self.valid.get_value_or_guard_async(&key).await {
            Ok(valid) => return Ok(valid.identity),
            Err(guard) => guard,
        };
        // Whoever held the guard before may have learned that the token is refused.
        self.check_refused(&key)?;
        let before = self.revocations.mark();
        let identity = match self.ask(tenant, &key, correlation_id).await {
            Ok(identity) => Arc::new(identity),
            Err(failure) => {
                if !failure.passing {
                    let until = Instant::now() + Duration::from_millis(self.config.refused_ttl_ms);
                    let remembered = failure.clone().with(Sequel::Nothing);
                    self.refused.insert(key, Refused { failure: remembered, until });
                }
                return Err(failure);
            }
        };
        if self.revocations.mark() == before {
            let until = Instant::now() + Duration::from_millis(self.config.valid_ttl_ms);
            drop(guard.insert(Valid { identity: identity.clone(), until }));
        }
        Ok(identity)
    }

    fn check_refused(&self, key: &Key) -> Result<(), Failure> {
        match self.refused.get(key) {
            Some(refused) if Instant::now() < refused.until => {
                self.metrics.token_lookup("refused");
                Err(refused.failure)
            }
            _ => Ok(()),
        }
    }

    async fn ask(
        &self,
        tenant: &TenantId,
        key: &Key,
        correlation_id: &CorrelationId,
    ) -> Result<Identity, Failure> {
        self.metrics.token_lookup("asked");
        let request = EndpointTokenValidationRequest {
            correlation_id: correlation_id.to_string(),
            timestamp: now_ms(),
            timeout: i64::try_from(self.config.timeout_ms).unwrap_or(i64::MAX),
            app_name: key.application.to_string(),
            token: key.token.as_str().into(),
        };
        let subject = ecap::EP_TOKEN_REQUEST.at(instance::CM);
        let timeout = Duration::from_millis(self.config.timeout_ms);
        let (request, headers) = (request.encode(), runtime::trace::headers());
        let asking = self.requester.request(subject, ecap::EP_TOKEN_RESPONSE, request, headers, timeout);
        let response = match asking.await {
            Ok(message) => EndpointTokenValidationResponse::decode(&message.payload).map_err(|error| {
                Failure::passing(503, format!("the token register's answer cannot be read: {error}"))
            })?,
            Err(RequestError::NoResponders) => {
                return Err(Failure::passing(
                    503,
                    "the endpoint token cannot be checked: no token register is running",
                ));
            }
            Err(error) => {
                return Err(Failure::passing(503, format!("the endpoint token cannot be checked: {error}")));
            }
        };
        self.read(tenant, key, response)
    }

    fn read(
        &self,
        tenant: &TenantId,
        key: &Key,
        response: EndpointTokenValidationResponse,
    ) -> Result<Identity, Failure> {
        match response.status_code {
            200 => {}
            401 | 404 => {
                let reason = "the endpoint token is unknown in this application; check it";
                return Err(Failure::refused(401, reason).with(Sequel::Guessed));
            }
            403 => {
                let reason =
                    "the endpoint token is suspended or revoked; issue or activate a token for the endpoint";
                return Err(Failure::refused(403, reason));
            }
            status => {
                let reason = response.reason_phrase.unwrap_or_default();
                return Err(Failure::passing(
                    503,
                    format!("the endpoint token cannot be checked: {status} {reason}"),
                ));
            }
        }
        let endpoint = response.endpoint_id.as_deref().map(EndpointId::parse);
        let Some(Ok(endpoint)) = endpoint else {
            return Err(Failure::passing(503, "the token register's answer holds no valid endpoint id"));
        };
        Ok(Identity {
            traffic: self.traffic.of(tenant, &key.application, &endpoint),
            endpoint,
            token: key.token.clone(),
            token_id: response.token_id.as_deref().and_then(|id| TokenId::parse(id).ok()),
            last_from: AtomicU64::new(0),
            rate: Rate::new(self.messages_per_second),
        })
    }

    /// To be taken before a token is resolved.
    pub(crate) fn mark(&self) -> u64 {
        self.revocations.mark()
    }

    /// Whether a token of the endpoint may have been revoked since the mark was taken.
    pub(crate) fn revoked_since(&self, mark: u64, endpoint: &EndpointId) -> bool {
        self.revocations.since(mark, |revoked| revoked == endpoint.as_str())
    }

    /// What all endpoints have sent and were sent.
    pub(crate) fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Forgets revoked tokens. All that is known is looked through once, however many events there are.
    pub(crate) fn revoke(&self, events: &[EndpointTokenRevokedEvent]) {
        let mut revoked: HashMap<&str, HashSet<&str>> = HashMap::new();
        for event in events {
            self.revocations.note(&event.endpoint_id);
            let token_ids = event.token_ids.iter().map(String::as_str);
            revoked.entry(&event.endpoint_id).or_default().extend(token_ids);
        }
        self.valid.retain(|_, valid| {
            let Identity { endpoint, token_id, .. } = &*valid.identity;
            revoked.get(endpoint.as_str()).is_none_or(|token_ids| {
                token_id.as_ref().is_some_and(|token_id| !token_ids.contains(token_id.as_str()))
            })
        });
    }

    /// Forgets every valid token: revocations may have been missed.
    pub(crate) fn forget(&self) {
        // Of nobody in particular, and still: answers that are under way are not kept.
        self.revocations.note("");
        self.valid.clear();
    }
}
