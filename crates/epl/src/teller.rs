//! Telling what has changed: what is common to metadata and points.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ids::AppVersionName;
use runtime::{Applications, Context, LookupError};
use tokio::sync::Notify;

use crate::config::Config;
use crate::metrics::Metrics;
use crate::settings::{Connectivity, Settings};
use crate::store::Store;

/// How often it is looked whether there is something to tell: what other replicas noted, and what is to be tried again.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a teller may try what it has taken; well below the lease.
pub(crate) const TRY_FOR: Duration = Duration::from_secs(40);

/// Tells. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Teller {
    pub(crate) context: Context,
    pub(crate) config: Arc<Config>,
    pub(crate) store: Store,
    pub(crate) applications: Applications<Settings>,
    pub(crate) metrics: Arc<Metrics>,
    /// Told whenever there may be something to tell.
    pub(crate) changed: Arc<Notify>,
}

/// What one round of telling found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Round {
    /// There may be more.
    More,
    /// There is no more now, or it cannot be told now.
    Rest,
}

impl Teller {
    /// Runs rounds until the service stops; a round that has begun is finished.
    pub(crate) async fn run<R: Future<Output = sqlx::Result<Round>>>(
        self,
        round: impl Fn(Teller) -> R,
    ) -> anyhow::Result<()> {
        let stopping = self.context.stopping();
        while !stopping.is_cancelled() {
            // Before the round: what changes while it runs must not be overheard.
            let changed = self.changed.notified();
            match round(self.clone()).await {
                Ok(Round::More) => continue,
                Ok(Round::Rest) => {}
                Err(error) => {
                    tracing::warn!(%error, "what is to be told cannot be read or settled; trying again")
                }
            }
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = stopping.cancelled() => {}
            }
        }
        Ok(())
    }

    /// The settings of application versions: none for one that does not exist, an error for one that cannot be read now.
    pub(crate) async fn settings<'a>(
        &self,
        versions: impl Iterator<Item = &'a AppVersionName>,
    ) -> HashMap<AppVersionName, Result<Connectivity, LookupError>> {
        let mut settings = HashMap::new();
        for version in versions {
            if settings.contains_key(version) {
                continue;
            }
            let found = match self.applications.version(version).await {
                Ok(found) => Ok(found.config.connectivity.clone()),
                Err(LookupError::Unknown) => Ok(Connectivity::default()),
                Err(error) => {
                    tracing::warn!(app_version = %version, %error, "the settings for connectivity cannot be read");
                    Err(error)
                }
            };
            settings.insert(version.clone(), found);
        }
        settings
    }

    /// An id for what is told together.
    pub(crate) fn correlation_id(&self) -> String {
        format!("{}-{:x}", self.context.replica(), rand::random::<u64>())
    }
}
