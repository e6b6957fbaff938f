//! A service's settings for tenants, as `tekton` has them.

use std::sync::Arc;

use ids::TenantId;
use ism::scmp::CONFIGURATION_EVENTS;
use ism::{BroadcastConfigurationUpdateEvent, Record as _};
use serde::de::DeserializeOwned;
use tokio::sync::broadcast;

use crate::Context;
use crate::configuration::{Of, Source, settings};
use crate::register::{LookupError, Register};

/// Changes that one who follows them may be behind.
const CHANGES_MAX: usize = 1_024;

/// Reads tenants' settings for one service. Cheap to clone.
pub struct Tenants<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Clone for Tenants<T> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

struct Shared<T> {
    source: Source,
    settings: Register<TenantId, Settings<T>>,
    changes: broadcast::Sender<Option<TenantId>>,
}

struct Settings<T> {
    tenant: TenantId,
    settings: Arc<T>,
}

/// Changes of tenants' settings; dropping it ends it.
pub struct Changes(broadcast::Receiver<Option<TenantId>>);

impl Changes {
    /// The next tenant whose settings may have changed; none when those of all may have. Waits for ever once the service has
    /// stopped.
    pub async fn next(&mut self) -> Option<TenantId> {
        match self.0.recv().await {
            Ok(tenant) => tenant,
            Err(broadcast::error::RecvError::Lagged(_)) => None,
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

impl<T: DeserializeOwned + Default + Send + Sync + 'static> Tenants<T> {
    /// Starts to follow the tenants' settings.
    pub async fn new(context: &Context) -> anyhow::Result<Self> {
        let mut events = context.subscribe(CONFIGURATION_EVENTS.to_owned(), None).await?;
        let (changes, _) = broadcast::channel(CHANGES_MAX);
        let shared = Arc::new(Shared { source: Source::new(context), settings: Register::new(), changes });
        let tenants = Self { shared };
        let follower = tenants.clone();
        context.spawn("follow the settings of tenants", async move {
            while let Some(event) = events.next().await {
                match BroadcastConfigurationUpdateEvent::decode(&event.payload) {
                    Ok(event) => follower.hear(&event),
                    Err(error) => tracing::warn!(%error, "a configuration event could not be read"),
                }
            }
            Ok(())
        });
        Ok(tenants)
    }

    fn hear(&self, event: &BroadcastConfigurationUpdateEvent) {
        // An application's own change is none of its tenant's.
        if event.app_name.is_none() {
            self.changed(event.tenant_id.as_deref().and_then(|id| TenantId::parse(id).ok()));
        }
    }

    /// Changes may have been missed: all tenants are asked for anew at their next use, and those who follow changes are
    /// told that any may have changed. While the register is away, what is known serves on.
    pub fn forget(&self) {
        self.changed(None);
    }

    fn changed(&self, tenant: Option<TenantId>) {
        self.shared
            .settings
            .make_stale(|kept: &Settings<T>| tenant.as_ref().is_none_or(|changed| *changed == kept.tenant));
        // Nobody may be following.
        drop(self.shared.changes.send(tenant));
    }

    /// Changes from now on. They are told after what was known has become stale.
    #[must_use]
    pub fn changes(&self) -> Changes {
        Changes(self.shared.changes.subscribe())
    }

    /// The tenant's settings if they are known and fresh: never waits.
    #[must_use]
    pub fn cached(&self, tenant: &TenantId) -> Option<Result<Arc<T>, LookupError>> {
        let fresh = self.shared.settings.fresh(tenant)?;
        Some(fresh.map(|kept| kept.settings.clone()))
    }

    /// The tenant's settings; the defaults when it has none.
    pub async fn tenant(&self, tenant: &TenantId) -> Result<Arc<T>, LookupError> {
        let ask = async {
            let response = self.shared.source.ask(Of::Tenant(tenant)).await?;
            // A tenant that the register has nothing of has the defaults.
            let json = response.and_then(|response| response.config);
            let settings = settings(&format!("tenant {tenant}"), json)?;
            Ok(Some(Settings { tenant: tenant.clone(), settings: Arc::new(settings) }))
        };
        self.shared.settings.get(tenant, ask).await.map(|kept| kept.settings.clone())
    }
}
