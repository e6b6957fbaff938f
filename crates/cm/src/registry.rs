//! What may be done with tokens, whoever asks: over REST or over NATS.

use ids::{ApplicationName, EndpointToken};
use ism::Record as _;
use ism::ecap::{EP_TOKEN_REVOKED, EndpointTokenRevokedEvent};
use runtime::Context;

use crate::error::Error;
use crate::metrics::Metrics;
use crate::secret::{TokenKey, generate};
use crate::status::Status;
use crate::store::{Found, Owner, Store, Token};

/// The tokens of all endpoints.
pub(crate) struct Registry {
    context: Context,
    store: Store,
    key: TokenKey,
    metrics: Metrics,
}

/// A token with its text, which is told this once.
pub(crate) struct Created {
    pub(crate) text: EndpointToken,
    pub(crate) token: Token,
}

impl Registry {
    pub(crate) fn new(context: Context, store: Store, key: TokenKey) -> Self {
        Self { context, store, key, metrics: Metrics::new() }
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// Makes a token for an endpoint: the one wished for, or a random one. See [`Store::create`] for
    /// `repeatable`.
    pub(crate) async fn create(
        &self,
        owner: &Owner,
        wish: Option<EndpointToken>,
        repeatable: bool,
    ) -> Result<Created, Error> {
        let text = wish.map_or_else(generate, Ok)?;
        let hash = self.key.hash(&owner.application, &text);
        let token = self.store.create(owner, &hash, repeatable).await?;
        Ok(Created { text, token })
    }

    /// Whose token this is. The first valid use makes it `Active`, which is written before the answer, once.
    pub(crate) async fn validate(
        &self,
        application: &ApplicationName,
        token: &EndpointToken,
    ) -> Result<Option<Found>, Error> {
        let hash = self.key.hash(application, token);
        let mut found = self.store.find(application, &hash).await?;
        if let Some(Found { token_id, status: Status::Inactive, .. }) = found {
            self.store.activate(token_id).await?;
            // Read again: the token may have been revoked at the same moment.
            found = self.store.find(application, &hash).await?;
        }
        self.metrics.validated(found.as_ref().map(|found| found.status));
        Ok(found)
    }

    /// Moves a token to another status; tells all services when that makes it useless.
    pub(crate) async fn transit(
        &self,
        correlation_id: &str,
        application: &ApplicationName,
        token: &EndpointToken,
        target: Status,
    ) -> Result<(), Error> {
        let hash = self.key.hash(application, token);
        let before = self.store.transit(application, &hash, target).await?;
        // Also when it was so already: the asker repeats because it has seen no effect, and the event may
        // have been lost.
        if !target.is_valid() {
            self.announce_revoked(correlation_id, application, &before).await;
        }
        Ok(())
    }

    async fn announce_revoked(&self, correlation_id: &str, application: &ApplicationName, token: &Found) {
        let event = EndpointTokenRevokedEvent {
            correlation_id: correlation_id.to_owned(),
            timestamp: runtime::now_ms(),
            timeout: 0,
            app_name: application.to_string(),
            endpoint_id: token.endpoint_id.clone(),
            token_ids: vec![token.token_id.to_string()],
            originator_replica_id: self.context.replica().to_string(),
        };
        let subject = EP_TOKEN_REVOKED.of(self.context.instance());
        if let Err(error) = self.context.nats().publish(subject, event.encode()).await {
            tracing::error!(
                %error, token_id = %token.token_id,
                "a revoked event could not be sent: gateways may accept the token until they ask again"
            );
        }
    }
}
