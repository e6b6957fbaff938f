//! What may be done with tokens, whoever asks: over REST or over NATS.

use chrono::{DateTime, Utc};
use ids::{ApplicationName, EndpointId, EndpointToken, TenantId};
use uuid::Uuid;

use crate::announcer::Announcer;
use crate::error::Error;
use crate::metrics::Metrics;
use crate::secret::{TokenKey, generate};
use crate::status::Status;
use crate::store::{Found, Owner, Revocation, Selector, Store, Token};

/// The tokens of all endpoints.
pub(crate) struct Registry {
    announcer: Announcer,
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
    pub(crate) fn new(announcer: Announcer, store: Store, key: TokenKey, metrics: Metrics) -> Self {
        Self { announcer, store, key, metrics }
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

    /// Moves the token of a text to another status; tells all services when it is useless now.
    pub(crate) async fn transit(
        &self,
        correlation_id: &str,
        application: &ApplicationName,
        token: &EndpointToken,
        target: Status,
    ) -> Result<(), Error> {
        let hash = self.key.hash(application, token);
        let moved = self.store.transit(correlation_id, Selector::Hash(application, &hash), target).await?;
        self.tell(moved.revocation).await;
        Ok(())
    }

    /// Moves a token of an endpoint to another status; tells all services when it is useless now.
    pub(crate) async fn set_status(
        &self,
        correlation_id: &str,
        tenant: &TenantId,
        endpoint_id: &EndpointId,
        token_id: Uuid,
        target: Status,
    ) -> Result<Token, Error> {
        let selector = Selector::Id(tenant, endpoint_id, token_id);
        let moved = self.store.transit(correlation_id, selector, target).await?;
        self.tell(moved.revocation).await;
        Ok(moved.token)
    }

    /// Deletes a token of an endpoint; tells all services if it could be used.
    pub(crate) async fn delete(
        &self,
        correlation_id: &str,
        tenant: &TenantId,
        endpoint_id: &EndpointId,
        token_id: Uuid,
    ) -> Result<(), Error> {
        let selector = Selector::Id(tenant, endpoint_id, token_id);
        let revoked = self.store.delete(correlation_id, selector).await?;
        self.tell(revoked).await;
        Ok(())
    }

    /// Deletes all tokens of an endpoint that is being deleted.
    pub(crate) async fn delete_of_endpoint(
        &self,
        correlation_id: &str,
        tenant: &TenantId,
        endpoint_id: &EndpointId,
    ) -> Result<(), Error> {
        let revoked = self.store.delete_of_endpoint(correlation_id, tenant, endpoint_id).await?;
        self.tell(revoked).await;
        Ok(())
    }

    /// Deletes the tokens that were left when an endpoint was deleted: made while it was.
    pub(crate) async fn endpoint_unregistered(
        &self,
        correlation_id: &str,
        endpoint_id: &EndpointId,
        until: DateTime<Utc>,
    ) -> Result<(), Error> {
        let revoked = self.store.delete_made_until(correlation_id, endpoint_id, until).await?;
        self.tell(revoked).await;
        Ok(())
    }

    /// Deletes some tokens of unregistered tenants; whether there may be more.
    pub(crate) async fn remove_some_of_tenants(&self) -> Result<bool, Error> {
        let correlation_id = format!("removal-{}", Uuid::now_v7());
        let Some(revocations) = self.store.remove_some(&correlation_id).await? else { return Ok(false) };
        for revocation in &revocations {
            self.announcer.tell(revocation).await;
        }
        Ok(true)
    }

    async fn tell(&self, revocation: Option<Revocation>) {
        if let Some(revocation) = revocation {
            self.announcer.tell(&revocation).await;
        }
    }
}
