//! Changes endpoints: their metadata and their application version.
//!
//! Each change is one transaction that locks the endpoint's row, so that none is lost, and in which the filters are
//! evaluated anew. The events go out after the commit.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use ids::{AppVersionName, ApplicationName, EndpointId, TenantId};
use runtime::{Applications, Context, LookupError, Version};
use serde::Deserialize;
use sqlx::Connection as _;
use tokio::time::Instant;

use crate::announcer::Announcer;
use crate::carry::carry_through;
use crate::error::Error;
use crate::filters;
use crate::metadata::{Difference, Edit, Limits};
use crate::store::{Locked, State, Store, Written};

/// How often a change is tried that collides with others.
const ATTEMPTS: u32 = 4;

/// The service has no settings of its own at applications: it only looks up whose they are.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct NoSettings {}

/// Whether the state of that tag may be changed.
pub(crate) type Precondition = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// Every state may be changed.
pub(crate) fn unconditionally() -> Precondition {
    Arc::new(|_| true)
}

/// Changes endpoints. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Updates {
    context: Context,
    announcer: Announcer,
    applications: Applications<NoSettings>,
    store: Store,
    limits: Limits,
}

/// A change of an endpoint's metadata that somebody asks for.
pub(crate) struct MetadataChange {
    pub(crate) correlation_id: String,
    /// None: of any tenant.
    pub(crate) tenant: Option<TenantId>,
    pub(crate) endpoint_id: EndpointId,
    pub(crate) precondition: Precondition,
    /// After this nothing is changed: whoever asks may have asked for something newer.
    pub(crate) deadline: Option<Instant>,
    pub(crate) edit: Edit,
}

/// A change of metadata that was committed.
struct Changed {
    before: Locked,
    after: Written,
    matches: filters::Changes,
}

/// A move to another version that was committed.
struct Move {
    endpoint: Locked,
    at: DateTime<Utc>,
    matches: filters::Changes,
}

impl Updates {
    pub(crate) fn new(
        context: Context,
        announcer: Announcer,
        applications: Applications<NoSettings>,
        store: Store,
        limits: Limits,
    ) -> Self {
        Self { context, announcer, applications, store, limits }
    }

    /// Changes the metadata of an endpoint.
    pub(crate) async fn metadata(&self, change: MetadataChange) -> Result<State, Error> {
        let updates = self.clone();
        carry_through(&self.context, async move {
            let mut attempt = 1;
            let done = loop {
                match updates.change(&change).await {
                    Err(error) if error.is_collision() && attempt < ATTEMPTS => attempt += 1,
                    done => break done?,
                }
            };
            match done {
                Ok(changed) => Ok(updates.announce(&change.correlation_id, changed).await),
                Err(unchanged) => Ok(state_of(unchanged)),
            }
        })
        .await
    }

    /// The inner error holds the endpoint when there is nothing to change.
    async fn change(&self, change: &MetadataChange) -> Result<Result<Changed, Locked>, Error> {
        let mut connection = self.store.pool().acquire().await?;
        let mut transaction = connection.begin().await?;
        let before = Locked::of(&mut transaction, change.tenant.as_ref(), &change.endpoint_id).await?;
        // Looked at while the row is locked: whatever comes later waits for this change, or finds that it is not made.
        if change.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Err(Error::TooLate);
        }
        if !(change.precondition)(&before.tag) {
            return Err(Error::Changed { tag: before.tag });
        }
        let wanted = change.edit.clone().apply(&before.metadata, self.limits)?;
        let Some(after) = before.write(&mut transaction, &wanted).await? else { return Ok(Err(before)) };
        let mut snapshot = before.snapshot();
        snapshot.metadata = &after.metadata;
        let matches = filters::reevaluate(&mut transaction, &snapshot).await?;
        transaction.commit().await?;
        Ok(Ok(Changed { before, after, matches }))
    }

    async fn announce(&self, correlation_id: &str, changed: Changed) -> State {
        let Changed { before, after, matches } = changed;
        let difference = Difference::between(&before.metadata, &after.metadata);
        self.announcer.metadata_updated(correlation_id, &before, difference, after.updated_at).await;
        matches.publish(&self.context, correlation_id).await;
        State { metadata: after.metadata, tag: after.tag, app_version: before.app_version.to_string() }
    }

    /// A version of an application of the tenant.
    pub(crate) async fn version(
        &self,
        tenant: &TenantId,
        name: &AppVersionName,
    ) -> Result<Arc<Version<NoSettings>>, Error> {
        let version = self.any_version(name).await?;
        if version.tenant_id == *tenant { Ok(version) } else { Err(Error::UnknownVersion(name.clone())) }
    }

    /// Whether an application is one of the tenant.
    pub(crate) async fn check_application(
        &self,
        tenant: &TenantId,
        name: &ApplicationName,
    ) -> Result<(), Error> {
        match self.applications.application(name).await {
            Ok(application) if application.tenant_id == *tenant => Ok(()),
            Ok(_) | Err(LookupError::Unknown) => {
                Err(Error::Unknown(format!("application {name} does not exist")))
            }
            Err(LookupError::Unavailable(reason)) => Err(Error::VersionsUnavailable(reason)),
        }
    }

    async fn any_version(&self, name: &AppVersionName) -> Result<Arc<Version<NoSettings>>, Error> {
        self.applications.version(name).await.map_err(|error| match error {
            LookupError::Unknown => Error::UnknownVersion(name.clone()),
            LookupError::Unavailable(reason) => Error::VersionsUnavailable(reason),
        })
    }

    /// Moves an endpoint to another version of its application; of any tenant, if none is given.
    pub(crate) async fn app_version(
        &self,
        correlation_id: String,
        tenant: Option<TenantId>,
        endpoint_id: EndpointId,
        name: AppVersionName,
    ) -> Result<(), Error> {
        let version = self.any_version(&name).await?;
        let updates = self.clone();
        carry_through(&self.context, async move {
            let mut attempt = 1;
            let moved = loop {
                match updates.move_to(tenant.as_ref(), &endpoint_id, &version).await {
                    Err(error) if error.is_collision() && attempt < ATTEMPTS => attempt += 1,
                    moved => break moved?,
                }
            };
            let Some(Move { endpoint, at, matches }) = moved else { return Ok(()) };
            let names = (endpoint.app_version.as_str(), name.as_str());
            updates.announcer.app_version_updated(&correlation_id, &endpoint_id, names, at).await;
            matches.publish(&updates.context, &correlation_id).await;
            Ok(())
        })
        .await
    }

    async fn move_to(
        &self,
        tenant: Option<&TenantId>,
        endpoint_id: &EndpointId,
        version: &Version<NoSettings>,
    ) -> Result<Option<Move>, Error> {
        let name = &version.app_version_name;
        let mut connection = self.store.pool().acquire().await?;
        let mut transaction = connection.begin().await?;
        let endpoint = Locked::of(&mut transaction, tenant, endpoint_id).await?;
        if endpoint.app_version == *name {
            return Ok(None);
        }
        if version.tenant_id != endpoint.tenant {
            return Err(Error::UnknownVersion(name.clone()));
        }
        if version.app_name != endpoint.application {
            let application = endpoint.application;
            return Err(Error::ForeignVersion { version: name.clone(), application });
        }
        let at = endpoint.move_to(&mut transaction, name).await?;
        let mut snapshot = endpoint.snapshot();
        snapshot.app_version = name;
        let matches = filters::reevaluate(&mut transaction, &snapshot).await?;
        transaction.commit().await?;
        Ok(Some(Move { endpoint, at, matches }))
    }
}

fn state_of(endpoint: Locked) -> State {
    State { metadata: endpoint.metadata, tag: endpoint.tag, app_version: endpoint.app_version.to_string() }
}
