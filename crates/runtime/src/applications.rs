//! Applications, their versions and this service's settings for them, as `tekton` has them.
//!
//! Read over NATS on first use and kept, bounded. A 17/SCMP event makes an entry stale at once, and age does after a
//! while, in case an event was lost. A stale entry still serves while `tekton` cannot be asked: telemetry goes on.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ids::{AppVersionName, ApplicationName, TenantId};
use ism::config::{CONFIGURATION_REQUEST, CONFIGURATION_RESPONSE};
use ism::scmp::CONFIGURATION_EVENTS;
use ism::subject::instance;
use ism::{BroadcastConfigurationUpdateEvent, ConfigurationRequest, ConfigurationResponse, Record as _};
use quick_cache::sync::Cache;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::{Context, RequestError, now_ms};

/// Applications and versions that are kept; the least used go first.
const KEPT_MAX: usize = 10_000;
const FRESH: Duration = Duration::from_secs(60);
/// A name that does not exist, or cannot be used, is asked for again after this time.
const NOTHING_FRESH: Duration = Duration::from_secs(2);
/// After a failure to ask, what is known serves this long before somebody asks again.
const RETRY_AFTER: Duration = Duration::from_secs(1);
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

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

/// Why something could not be read from the register that has it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// There is none of that name.
    #[error("it does not exist")]
    Unknown,
    /// It may exist, but that cannot be told now.
    #[error("the register cannot be asked now: {0}")]
    Unavailable(String),
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
    context: Context,
    subject: String,
    versions: Register<AppVersionName, Version<C>>,
    applications: Register<ApplicationName, Application<C>>,
}

/// Why asking gave no answer to use.
enum Failure {
    /// The register does not answer: what is known serves on.
    Away(String),
    /// It answered what cannot be used: what was known before is no longer what its owner wants.
    Faulty(String),
}

/// What is known of names.
struct Register<K, T> {
    kept: Cache<K, Arc<Kept<T>>>,
    /// Changes that were announced so far: an answer that was asked for before one may be from before it.
    changes: AtomicU64,
}

/// What is known of one name, and for how long.
struct Kept<T> {
    value: Result<Arc<T>, LookupError>,
    until: Instant,
    stale: AtomicBool,
    refreshing: AtomicBool,
}

impl<T> Kept<T> {
    fn is_fresh(&self) -> bool {
        !self.stale.load(Ordering::Acquire) && Instant::now() < self.until
    }
}

/// Gives the right to refresh back, also when the one who had it was cancelled.
struct Refreshing<'a>(&'a AtomicBool);

impl Drop for Refreshing<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl<K: Eq + std::hash::Hash + Clone, T> Register<K, T> {
    fn new() -> Self {
        Self { kept: Cache::new(KEPT_MAX), changes: AtomicU64::new(0) }
    }

    fn fresh(&self, key: &K) -> Option<Result<Arc<T>, LookupError>> {
        self.kept.get(key).filter(|kept| kept.is_fresh()).map(|kept| kept.value.clone())
    }

    /// What is fresh, else what `ask` answers. Only one asks anew for what is stale; the others, and all while nobody can
    /// be asked, take what is kept.
    async fn get(
        &self,
        key: &K,
        ask: impl Future<Output = Result<Option<T>, Failure>>,
    ) -> Result<Arc<T>, LookupError> {
        let kept = self.kept.get(key);
        let mut _refreshing = None;
        if let Some(kept) = &kept {
            if kept.is_fresh() || (kept.value.is_ok() && kept.refreshing.swap(true, Ordering::AcqRel)) {
                return kept.value.clone();
            }
            _refreshing = Some(Refreshing(&kept.refreshing));
        }
        let changes = self.changes.load(Ordering::Acquire);
        let (value, fresh) = match (ask.await, kept.as_ref().and_then(|kept| kept.value.clone().ok())) {
            (Ok(Some(value)), _) => (Ok(Arc::new(value)), FRESH),
            (Ok(None), _) => (Err(LookupError::Unknown), NOTHING_FRESH),
            (Err(Failure::Faulty(reason)), _) => {
                tracing::warn!(reason, "an application cannot be served");
                (Err(LookupError::Unavailable(reason)), NOTHING_FRESH)
            }
            // Nobody can be asked: what is known serves on, and not each message waits to learn the same.
            (Err(Failure::Away(_)), Some(stale)) => (Ok(stale), RETRY_AFTER),
            (Err(Failure::Away(reason)), None) => return Err(LookupError::Unavailable(reason)),
        };
        let changed = self.changes.load(Ordering::Acquire) != changes;
        let kept = Arc::new(Kept {
            value,
            until: Instant::now() + fresh,
            stale: AtomicBool::new(changed),
            refreshing: AtomicBool::new(false),
        });
        self.kept.insert(key.clone(), kept.clone());
        kept.value.clone()
    }

    /// Marks what a change concerns; a name that was unknown may now exist.
    fn make_stale(&self, concerns: impl Fn(&T) -> bool) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        for (_, kept) in self.kept.iter() {
            if kept.value.as_ref().map_or(true, |value| concerns(value)) {
                kept.stale.store(true, Ordering::Release);
            }
        }
    }
}

impl<C: DeserializeOwned + Default + Send + Sync + 'static> Applications<C> {
    /// Starts to follow the application register.
    pub async fn new(context: &Context) -> anyhow::Result<Self> {
        let mut events = context.subscribe(CONFIGURATION_EVENTS.to_owned(), None).await?;
        let shared = Arc::new(Shared {
            context: context.clone(),
            subject: CONFIGURATION_REQUEST.at(instance::TEKTON),
            versions: Register::new(),
            applications: Register::new(),
        });
        let applications = Self { shared };
        let follower = applications.clone();
        context.spawn("follow the application register", async move {
            while let Some(event) = events.next().await {
                match BroadcastConfigurationUpdateEvent::decode(&event.payload) {
                    Ok(event) => follower.make_stale(event.app_name.as_deref()),
                    Err(error) => tracing::warn!(%error, "a configuration event could not be read"),
                }
            }
            Ok(())
        });
        Ok(applications)
    }

    /// The version if it is known and fresh: never waits.
    #[must_use]
    pub fn cached_version(&self, name: &AppVersionName) -> Option<Result<Arc<Version<C>>, LookupError>> {
        self.shared.versions.fresh(name)
    }

    /// The version of that name.
    pub async fn version(&self, name: &AppVersionName) -> Result<Arc<Version<C>>, LookupError> {
        let ask = async {
            let response = self.ask(Some(name.to_string()), None).await?;
            response.map(|response| version(name, response)).transpose()
        };
        self.shared.versions.get(name, ask).await
    }

    /// The application of that name.
    pub async fn application(&self, name: &ApplicationName) -> Result<Arc<Application<C>>, LookupError> {
        let ask = async {
            let response = self.ask(None, Some(name.to_string())).await?;
            response.map(|response| application(name, response)).transpose()
        };
        self.shared.applications.get(name, ask).await
    }

    async fn ask(
        &self,
        app_version_name: Option<String>,
        app_name: Option<String>,
    ) -> Result<Option<ConfigurationResponse>, Failure> {
        let context = &self.shared.context;
        let request = ConfigurationRequest {
            correlation_id: format!("{}-{:x}", context.replica(), rand::random::<u64>()),
            timestamp: now_ms(),
            timeout: i64::try_from(ASK_TIMEOUT.as_millis()).unwrap_or(i64::MAX),
            service_instance_name: context.instance().to_string(),
            app_version_name,
            app_name,
        };
        let answer = context
            .requester()
            .request(self.shared.subject.clone(), CONFIGURATION_RESPONSE, request.encode(), None, ASK_TIMEOUT)
            .await
            .map_err(|error: RequestError| Failure::Away(error.to_string()))?;
        let response = ConfigurationResponse::decode(&answer.payload)
            .map_err(|error| Failure::Faulty(error.to_string()))?;
        match response.status_code {
            200 => Ok(Some(response)),
            404 => Ok(None),
            code => {
                let reason = response.reason_phrase.unwrap_or_default();
                Err(Failure::Away(format!("it answered {code} {reason}")))
            }
        }
    }

    fn make_stale(&self, app_name: Option<&str>) {
        let concerns = |name: &ApplicationName| app_name.is_none_or(|changed| changed == name.as_str());
        self.shared.applications.make_stale(|application| concerns(&application.name));
        self.shared.versions.make_stale(|version| concerns(&version.app_name));
    }
}

fn version<C: DeserializeOwned + Default>(
    name: &AppVersionName,
    response: ConfigurationResponse,
) -> Result<Version<C>, Failure> {
    let (tenant_id, app_name) = owner(response.tenant_id.as_deref(), response.app_name.as_deref())?;
    let config = settings(&app_name, response.config)?;
    Ok(Version { tenant_id, app_name, app_version_name: name.clone(), config })
}

fn application<C: DeserializeOwned + Default>(
    name: &ApplicationName,
    response: ConfigurationResponse,
) -> Result<Application<C>, Failure> {
    let (tenant_id, _) = owner(response.tenant_id.as_deref(), Some(name.as_str()))?;
    let version_names =
        response.app_version_names.iter().filter_map(|name| AppVersionName::parse(name).ok()).collect();
    let config = settings(name, response.config)?;
    Ok(Application { tenant_id, name: name.clone(), version_names, config })
}

fn owner(tenant_id: Option<&str>, app_name: Option<&str>) -> Result<(TenantId, ApplicationName), Failure> {
    let tenant_id = tenant_id.and_then(|id| TenantId::parse(id).ok());
    let app_name = app_name.and_then(|name| ApplicationName::parse(name).ok());
    tenant_id
        .zip(app_name)
        .ok_or_else(|| Failure::Faulty("its answer names no tenant or application".to_owned()))
}

fn settings<C: DeserializeOwned + Default>(
    app_name: &ApplicationName,
    json: Option<Bytes>,
) -> Result<C, Failure> {
    let Some(json) = json else { return Ok(C::default()) };
    let mut deserializer = serde_json::Deserializer::from_slice(&json);
    serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let (path, fault) = (error.path().to_string(), error.inner());
        Failure::Faulty(format!(
            "the settings of application {app_name} for this service are wrong at {path}: {fault}"
        ))
    })
}
