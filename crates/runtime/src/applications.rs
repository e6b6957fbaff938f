//! Applications, their versions and this service's settings for them, as `tekton` has them.

use std::collections::BTreeSet;
use std::sync::Arc;

use ids::{AppVersionName, ApplicationName, TenantId};
use ism::scmp::CONFIGURATION_EVENTS;
use ism::{BroadcastConfigurationUpdateEvent, ConfigurationResponse, Record as _};
use serde::de::DeserializeOwned;

use crate::Context;
use crate::configuration::{Of, Source, settings};
use crate::register::{Failure, LookupError, Register};

/// An application, as one service sees it.
#[derive(Debug)]
pub struct Application<C> {
    /// The tenant that owns it.
    pub tenant_id: TenantId,
    /// Its name.
    pub name: ApplicationName,
    /// The names of all its versions.
    pub version_names: BTreeSet<AppVersionName>,
    /// The service's settings at application level.
    pub config: C,
}

/// An application version, as one service sees it.
#[derive(Debug)]
pub struct Version<C> {
    /// The tenant that owns it.
    pub tenant_id: TenantId,
    /// The application that it is a version of.
    pub app_name: ApplicationName,
    /// Its name.
    pub app_version_name: AppVersionName,
    /// The service's settings: the version's if it has some, else the application's.
    pub config: C,
}

/// Reads applications for one service. Cheap to clone.
pub struct Applications<C> {
    shared: Arc<Shared<C>>,
}

impl<C> Clone for Applications<C> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

struct Shared<C> {
    source: Source,
    versions: Register<AppVersionName, Version<C>>,
    applications: Register<ApplicationName, Application<C>>,
}

impl<C: DeserializeOwned + Default + Send + Sync + 'static> Applications<C> {
    /// Starts to follow the application register.
    pub async fn new(context: &Context) -> anyhow::Result<Self> {
        let mut events = context.subscribe(CONFIGURATION_EVENTS.to_owned(), None).await?;
        let shared = Arc::new(Shared {
            source: Source::new(context),
            versions: Register::new(),
            applications: Register::new(),
        });
        let applications = Self { shared };
        let follower = applications.clone();
        context.spawn("follow the application register", async move {
            while let Some(event) = events.next().await {
                match BroadcastConfigurationUpdateEvent::decode(&event.payload) {
                    Ok(event) => follower.hear(&event),
                    Err(error) => tracing::warn!(%error, "a configuration event could not be read"),
                }
            }
            Ok(())
        });
        Ok(applications)
    }

    /// Changes may have been missed: everything is asked for anew at its next use. While the register is away, what is known serves on.
    pub fn forget(&self) {
        self.shared.versions.make_stale(|_| true);
        self.shared.applications.make_stale(|_| true);
    }

    /// The version if it is known and fresh: never waits.
    #[must_use]
    pub fn cached_version(&self, name: &AppVersionName) -> Option<Result<Arc<Version<C>>, LookupError>> {
        self.shared.versions.fresh(name)
    }

    /// The version of that name.
    pub async fn version(&self, name: &AppVersionName) -> Result<Arc<Version<C>>, LookupError> {
        let ask = async {
            let response = self.shared.source.ask(Of::AppVersion(name)).await?;
            response.map(|response| version(name, response)).transpose()
        };
        self.shared.versions.get(name, ask).await
    }

    /// The application of that name.
    pub async fn application(&self, name: &ApplicationName) -> Result<Arc<Application<C>>, LookupError> {
        let ask = async {
            let response = self.shared.source.ask(Of::Application(name)).await?;
            response.map(|response| application(name, response)).transpose()
        };
        self.shared.applications.get(name, ask).await
    }

    fn hear(&self, event: &BroadcastConfigurationUpdateEvent) {
        // An event without an application concerns all of its tenant: not those of others.
        let concerns = |tenant: &TenantId, name: &ApplicationName| match (&event.app_name, &event.tenant_id) {
            (Some(changed), _) => changed == name.as_str(),
            (None, Some(changed)) => changed == tenant.as_str(),
            (None, None) => true,
        };
        let shared = &self.shared;
        shared.applications.make_stale(|known: &Application<C>| concerns(&known.tenant_id, &known.name));
        shared.versions.make_stale(|known: &Version<C>| concerns(&known.tenant_id, &known.app_name));
    }
}

fn version<C: DeserializeOwned + Default>(
    name: &AppVersionName,
    response: ConfigurationResponse,
) -> Result<Version<C>, Failure> {
    let (tenant_id, app_name) = owner(response.tenant_id.as_deref(), response.app_name.as_deref())?;
    let config = settings(&format!("application {app_name}"), response.config)?;
    Ok(Version { tenant_id, app_name, app_version_name: name.clone(), config })
}

fn application<C: DeserializeOwned + Default>(
    name: &ApplicationName,
    response: ConfigurationResponse,
) -> Result<Application<C>, Failure> {
    let (tenant_id, _) = owner(response.tenant_id.as_deref(), Some(name.as_str()))?;
    let version_names =
        response.app_version_names.iter().filter_map(|name| AppVersionName::parse(name).ok()).collect();
    let config = settings(&format!("application {name}"), response.config)?;
    Ok(Application { tenant_id, name: name.clone(), version_names, config })
}

fn owner(tenant_id: Option<&str>, app_name: Option<&str>) -> Result<(TenantId, ApplicationName), Failure> {
    let tenant_id = tenant_id.and_then(|id| TenantId::parse(id).ok());
    let app_name = app_name.and_then(|name| ApplicationName::parse(name).ok());
    tenant_id
        .zip(app_name)
        .ok_or_else(|| Failure::Faulty("its answer names no tenant or application".to_owned()))
}
