//! Filters: queries over the endpoints of an application, and which endpoints match, kept up to date.
//!
//! | module | |
//! |---|---|
//! | `query`, `parse`, `strict` | Kaa's query language, MongoDB's in small |
//! | `evaluate`, `compare` | evaluates a query in memory, for an endpoint that changes |
//! | `sql` | the same as a condition in SQL, for all endpoints |
//! | `definition`, `store`, `set` | filters and their tables; what keeps changes of filters and of endpoints apart |
//! | `membership` | what a changed endpoint matches, in the transaction that changes it |
//! | `matching` | what all endpoints match, in the background, after a filter was created or changed |
//! | `events`, `provide`, `rest` | 18/EFE, 20/EFMP, REST |

mod compare;
mod config;
mod definition;
mod error;
mod evaluate;
mod events;
mod matching;
mod membership;
mod parse;
mod provide;
mod query;
mod rest;
mod set;
mod sql;
mod store;
mod strict;

#[cfg(test)]
mod agreement;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use ::rest::IfMatch;
use chrono::{DateTime, Utc};
use ids::{ApplicationName, TenantId};
use ism::efe::{ACTIVATED, DELETED, EP_MATCHED, EP_UNMATCHED, PENDING};
use ism::efmp::{
    EP_FILTERS_REQUEST, EP_FILTERS_RESPONSE, EP_LIST_BY_FILTER_REQUEST, EP_LIST_BY_FILTER_RESPONSE,
};
use runtime::{Applications, Context, LookupError, Subjects};
use sqlx::PgPool;
use tokio::sync::Notify;
use uuid::Uuid;

pub(crate) use compare::equal;
pub use config::FiltersConfig;
pub(crate) use error::Error;
pub(crate) use events::Changes;
pub(crate) use membership::{reevaluate, unregister};
pub(crate) use rest::routes;
pub(crate) use store::{ActiveFilter, FilterStore, push_matching};

use self::definition::{Filter, FilterPatch, NewFilter};
use self::events::Turn;
use self::matching::{Matcher, Steps};
use crate::carry::carry_through;
use crate::updates::NoSettings;

/// The filters of the service. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Filters {
    context: Context,
    store: FilterStore,
    applications: Applications<NoSettings>,
    per_application_max: i64,
    wake: Arc<Notify>,
}

/// What filters say and hear on NATS.
pub(crate) fn subjects(subjects: Subjects) -> Subjects {
    subjects
        .serves(EP_FILTERS_REQUEST)
        .answers(EP_FILTERS_RESPONSE)
        .serves(EP_LIST_BY_FILTER_REQUEST)
        .answers(EP_LIST_BY_FILTER_RESPONSE)
        .emits_grouped(PENDING)
        .emits_grouped(ACTIVATED)
        .emits_grouped(DELETED)
        .emits_grouped(EP_MATCHED)
        .emits_grouped(EP_UNMATCHED)
}

impl Filters {
    /// Starts matching in the background and answering 20/EFMP.
    pub(crate) async fn start(
        context: &Context,
        pool: PgPool,
        applications: Applications<NoSettings>,
        config: &FiltersConfig,
        concurrent_requests_max: usize,
    ) -> anyhow::Result<Self> {
        let store = FilterStore::new(pool.clone());
        let wake = Arc::new(Notify::new());
        provide::serve(context, &store, concurrent_requests_max, config.listed_endpoints_max).await?;
        let matcher = Matcher {
            context: context.clone(),
            steps: Steps { pool, batch_endpoints: config.batch_endpoints },
            poll_interval: Duration::from_millis(config.poll_interval_ms),
            wake: wake.clone(),
        };
        context.spawn("match endpoints against filters", matcher.run());
        let per_application_max = config.per_application_max;
        Ok(Self { context: context.clone(), store, applications, per_application_max, wake })
    }

    /// The tables, for whoever searches endpoints by filters.
    pub(crate) fn store(&self) -> &FilterStore {
        &self.store
    }

    /// Deletes the filters that an application, or a whole tenant, had at a time. May be repeated.
    pub(crate) async fn purge(
        &self,
        correlation_id: &str,
        tenant: &TenantId,
        application: Option<&ApplicationName>,
        until: DateTime<Utc>,
    ) -> Result<(), Error> {
        for (application, filter_id) in self.store.created_until(tenant, application, until).await? {
            let any = IfMatch::default();
            match self.remove(correlation_id, tenant, &application, filter_id, &any).await {
                Ok(()) | Err(Error::UnknownFilter(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn list(
        &self,
        tenant: &TenantId,
        application: &ApplicationName,
        name: Option<&str>,
        offset: i64,
        limit: i64,
    ) -> Result<(i64, Vec<Filter>), Error> {
        match self.check_application(tenant, application).await {
            // What is stored here can be told all the same.
            Ok(()) | Err(Error::ApplicationsUnavailable(_)) => {}
            Err(error) => return Err(error),
        }
        self.store.filters(tenant, application, name, offset, limit).await
    }

    async fn get(
        &self,
        tenant: &TenantId,
        application: &ApplicationName,
        filter_id: Uuid,
    ) -> Result<Filter, Error> {
        self.store.filter(tenant, application, filter_id).await
    }

    async fn create(
        &self,
        correlation_id: String,
        tenant: TenantId,
        application: ApplicationName,
        new: NewFilter,
    ) -> Result<Filter, crate::error::Error> {
        new.check()?;
        self.check_application(&tenant, &application).await?;
        let filters = self.clone();
        carry_through(&self.context, async move {
            let max = filters.per_application_max;
            let filter = filters.store.create(&tenant, &application, &new, max).await?;
            filters.turned(&correlation_id, Turn::Pending, &application, &filter).await;
            Ok(filter)
        })
        .await
    }

    async fn update(
        &self,
        correlation_id: String,
        tenant: TenantId,
        application: ApplicationName,
        filter_id: Uuid,
        patch: FilterPatch,
        if_match: IfMatch,
    ) -> Result<Filter, crate::error::Error> {
        patch.check()?;
        let filters = self.clone();
        carry_through(&self.context, async move {
            let updated = filters.store.update(&tenant, &application, filter_id, patch, &if_match).await?;
            if updated.is_matched_anew {
                filters.turned(&correlation_id, Turn::Pending, &application, &updated.filter).await;
            }
            Ok(updated.filter)
        })
        .await
    }

    async fn delete(
        &self,
        correlation_id: String,
        tenant: TenantId,
        application: ApplicationName,
        filter_id: Uuid,
        if_match: IfMatch,
    ) -> Result<(), crate::error::Error> {
        let filters = self.clone();
        let deleting = async move {
            Ok(filters.remove(&correlation_id, &tenant, &application, filter_id, &if_match).await?)
        };
        carry_through(&self.context, deleting).await
    }

    async fn remove(
        &self,
        correlation_id: &str,
        tenant: &TenantId,
        application: &ApplicationName,
        filter_id: Uuid,
        if_match: &IfMatch,
    ) -> Result<(), Error> {
        let filter = self.store.delete(tenant, application, filter_id, if_match).await?;
        self.turned(correlation_id, Turn::Deleted, application, &filter).await;
        Ok(())
    }

    /// A filter has been stored in another state: others are told, and there is work.
    async fn turned(&self, correlation_id: &str, turn: Turn, application: &ApplicationName, filter: &Filter) {
        events::announce(&self.context, correlation_id, turn, application.as_str(), filter.id, &filter.name)
            .await;
        self.wake.notify_one();
    }

    async fn check_application(&self, tenant: &TenantId, name: &ApplicationName) -> Result<(), Error> {
        match self.applications.application(name).await {
            Ok(application) if application.tenant_id == *tenant => Ok(()),
            Ok(_) | Err(LookupError::Unknown) => Err(Error::UnknownApplication(name.clone())),
            Err(LookupError::Unavailable(reason)) => Err(Error::ApplicationsUnavailable(reason)),
        }
    }
}
