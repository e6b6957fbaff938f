//! What may be done with credentials, whoever asks: over REST or over NATS.
//!
//! Names and passwords are in [`crate::basic`], certificates in [`crate::x509`], their authorities in [`crate::authorities`].

use std::sync::Arc;

use chrono::{DateTime, Utc};
use ids::TenantId;
use uuid::Uuid;

use crate::announcer::Announcer;
use crate::config::Config;
use crate::error::Error;
use crate::keys::Keys;
use crate::logins::Logins;
use crate::metrics::{Method, Metrics, Outcome};
use crate::root::Root;
use crate::state::State;
use crate::store::{Change, Credentials, Store, Topic};
use crate::uses::Uses;

/// The credentials and authorities of all tenants.
pub(crate) struct Registry {
    pub(crate) config: Config,
    pub(crate) store: Store,
    pub(crate) keys: Keys,
    pub(crate) root: Root,
    pub(crate) logins: Logins,
    pub(crate) announcer: Arc<Announcer>,
    pub(crate) uses: Arc<Uses>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Registry {
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn count(&self, method: Method, outcome: Outcome) {
        self.metrics.authenticated(method, outcome);
    }

    /// Moves credentials to another state; tells all services when that makes them unusable.
    pub(crate) async fn transit<C: Credentials>(
        &self,
        change: Change<'_>,
        id: Uuid,
        target: State,
    ) -> Result<C, Error> {
        let after = self.store.transit(change, id, target).await?;
        if !target.is_usable() {
            self.logins.forget(id);
            self.announcer.announce().await;
        }
        Ok(after)
    }

    /// Removes credentials, and tells all services.
    pub(crate) async fn delete<C: Credentials>(&self, change: Change<'_>, id: Uuid) -> Result<(), Error> {
        self.store.delete::<C>(change, id).await?;
        self.logins.forget(id);
        self.announcer.announce().await;
        Ok(())
    }

    /// Removes everything of a tenant that is no more, and tells all services.
    pub(crate) async fn delete_tenant(&self, tenant: &TenantId, correlation_id: &str) -> Result<(), Error> {
        self.store.delete_tenant(Change { tenant, correlation_id }).await?;
        self.announcer.announce().await;
        Ok(())
    }

    /// Notes that somebody shows that the credentials are his, and tells their state then; none when they are gone. The first
    /// use makes them `Active`, which is written before the answer, once.
    pub(crate) async fn used<C: Credentials>(
        &self,
        id: Uuid,
        state: State,
        last_use_at: Option<DateTime<Utc>>,
    ) -> Result<Option<State>, Error> {
        let method = if C::TOPIC == Topic::Basic { Method::Basic } else { Method::Certificate };
        match state {
            State::Inactive => return self.store.first_use::<C>(id).await,
            State::Active => self.uses.note(method, id, last_use_at),
            State::Suspended | State::Revoked => {}
        }
        Ok(Some(state))
    }
}

/// What a refused client is told of its credentials.
pub(crate) const fn refusal(state: State) -> Option<&'static str> {
    match state {
        State::Inactive | State::Active => None,
        State::Suspended => Some("the credentials are suspended"),
        State::Revoked => Some("the credentials are revoked"),
    }
}
