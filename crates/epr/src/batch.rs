//! Orders to register many endpoints: taken at once, worked off in the background, asked for later.
//!
//! An order lives in the database: whichever replica has a hand free works on it, also after a restart. Each endpoint
//! has its id from the beginning and is noted as done in the transaction that makes it visible, so that none is
//! registered twice.

mod seal;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use ids::{ApplicationName, EndpointId, EndpointToken, TenantId};
use runtime::{Context, Version};
use tokio::sync::Notify;
use uuid::Uuid;

pub(crate) use seal::{SealError, Sealer};

use crate::config::Config;
use crate::domain::{BatchFailed, BatchMade, BatchStatus};
use crate::error::Error;
use crate::metadata::{Metadata, check};
use crate::registration::{Registrar, Wish};
use crate::store::{Item, ItemKey, NewItem, NewTask, Outcome, Store, Task};
use crate::updates::NoSettings;

/// Endpoints in one order.
pub(crate) const ENDPOINTS_MAX: usize = 1_000;
/// Endpoints that are registered at once.
const CONCURRENT: usize = 4;
/// Endpoints between two renewals of the claim to an order: one for each that is registered at once, so that the claim
/// is never older than one registration takes.
const STEP: i64 = 4;
/// Added to the time that a token may take: then another replica may go on with an order.
const CONFIRM_TIME: Duration = Duration::from_secs(15);
/// How long an order rests in which nothing can be registered now.
const REST: Duration = Duration::from_secs(3);
/// What cannot be registered for so long fails.
const GIVE_UP_AFTER: chrono::Duration = chrono::Duration::hours(1);
/// How long an order whose tokens another process can read is left to that.
const FOREIGN_KEY_PATIENCE: Duration = Duration::from_secs(60);

/// An endpoint that is wished for.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) endpoint_id: Option<EndpointId>,
    pub(crate) token: Option<EndpointToken>,
    pub(crate) metadata: Metadata,
}

/// Takes orders and works them off. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Batches {
    context: Context,
    registrar: Registrar,
    sealer: Sealer,
    store: Store,
    config: Config,
    wake: Arc<Notify>,
}

impl Batches {
    pub(crate) fn new(
        context: Context,
        registrar: Registrar,
        sealer: Sealer,
        store: Store,
        config: Config,
    ) -> Self {
        Self { context, registrar, sealer, store, config, wake: Arc::default() }
    }

    /// Takes an order: from here on it is worked off, whatever happens.
    pub(crate) async fn add(
        &self,
        tenant: TenantId,
        version: &Version<NoSettings>,
        wanted: Vec<Wanted>,
    ) -> Result<Uuid, Error> {
        if wanted.is_empty() || wanted.len() > ENDPOINTS_MAX {
            return Err(Error::Refused(format!("endpoints must hold 1 to {ENDPOINTS_MAX} endpoints")));
        }
        let task_id = Uuid::new_v4();
        let items = wanted.into_iter().zip(1..).map(|(wanted, position)| {
            check(&wanted.metadata, self.config.metadata_limits()).map_err(|invalid| {
                Error::Refused(format!("endpoint {position} of the request: {invalid}"))
            })?;
            self.item(ItemKey { task_id, position }, wanted)
        });
        let task = NewTask {
            task_id,
            tenant,
            application: version.app_name.clone(),
            version: version.app_version_name.clone(),
            key_id: self.sealer.key_id().to_owned(),
            items: items.collect::<Result<_, _>>()?,
        };
        self.store.add_task(&task, self.config.batch_tasks_max).await?;
        self.wake.notify_one();
        Ok(task_id)
    }

    fn item(&self, key: ItemKey, wanted: Wanted) -> Result<NewItem, Error> {
        let endpoint_id = match wanted.endpoint_id {
            Some(endpoint_id) => endpoint_id,
            None => EndpointId::parse(&Uuid::new_v4().to_string())?,
        };
        let token = wanted.token.map(|token| self.sealer.seal(key, token.as_str())).transpose()?;
        Ok(NewItem { endpoint_id, token, metadata: wanted.metadata })
    }

    /// How far an order of the tenant's application is.
    pub(crate) async fn status(
        &self,
        tenant: &TenantId,
        application: &ApplicationName,
        task_id: Uuid,
    ) -> Result<BatchStatus, Error> {
        let items = self.store.task_items(tenant, application, task_id).await?;
        if items.is_empty() {
            let hours = self.config.batch_kept_hours;
            return Err(Error::Unknown(format!(
                "application {application} has no batch task {task_id}; tasks are kept for {hours} h \
                 (epr.batch_kept_hours)"
            )));
        }
        let mut status = BatchStatus::default();
        for item in items {
            let token = item.token.as_deref().and_then(|sealed| self.sealer.open(item.key, sealed).ok());
            let endpoint_token = token.map(|token| token.as_str().to_owned());
            let (endpoint_id, metadata) = (item.endpoint_id.to_string(), item.metadata);
            match item.outcome {
                Outcome::Pending => status.pending_count += 1,
                Outcome::Created => {
                    status.created_count += 1;
                    status.created.push(BatchMade { endpoint_token, endpoint_id, metadata });
                }
                Outcome::Failed => {
                    status.failed_count += 1;
                    let status_reason = item.reason.unwrap_or_default();
                    status.failed.push(BatchFailed {
                        endpoint_token,
                        endpoint_id,
                        metadata,
                        status: "FAILED",
                        status_reason,
                    });
                }
            }
        }
        Ok(status)
    }

    /// Works off orders for as long as the service runs.
    pub(crate) async fn work(self) -> anyhow::Result<()> {
        let stopping = self.context.stopping();
        while !stopping.is_cancelled() {
            let worked = match self.work_one().await {
                Ok(worked) => worked,
                Err(error) => {
                    tracing::warn!(error = error.as_dyn(), "batch tasks rest; it is tried later");
                    false
                }
            };
            if !worked {
                tokio::select! {
                    () = tokio::time::sleep(self.config.sweep_interval()) => {}
                    () = self.wake.notified() => {}
                    () = stopping.cancelled() => {}
                }
            }
        }
        Ok(())
    }

    /// Whether there was an order to work on.
    async fn work_one(&self) -> Result<bool, Error> {
        self.store.forget_tasks(self.config.batch_kept()).await?;
        let hold = self.hold();
        let claimed = self.store.claim_task(self.sealer.key_id(), hold, FOREIGN_KEY_PATIENCE).await?;
        let Some(task) = claimed else { return Ok(false) };
        let rest = if self.work_on(&task).await? { Duration::ZERO } else { REST };
        if !self.store.finish_task(task.task_id).await? {
            self.store.hold_task(task.task_id, rest).await?;
        }
        Ok(true)
    }

    fn hold(&self) -> Duration {
        self.config.token_timeout() + CONFIRM_TIME
    }

    /// Goes once through what is pending. False when nothing can be registered now.
    async fn work_on(&self, task: &Task) -> Result<bool, Error> {
        let stopping = self.context.stopping();
        let mut after = 0;
        while !stopping.is_cancelled() {
            let items = self.store.pending_items(task.task_id, after, STEP).await?;
            let Some(last) = items.last() else { break };
            after = last.key.position;
            self.store.hold_task(task.task_id, self.hold()).await?;
            let done: Vec<Result<bool, Error>> = futures::stream::iter(items)
                .map(|item| self.register(task, item))
                .buffer_unordered(CONCURRENT)
                .collect()
                .await;
            let done: Vec<bool> = done.into_iter().collect::<Result<_, _>>()?;
            if !done.contains(&true) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Registers an endpoint of an order. False when that cannot be done now.
    async fn register(&self, task: &Task, item: Item) -> Result<bool, Error> {
        let key = item.key;
        let token = match item.token.as_deref().map(|sealed| self.sealer.open(key, sealed)).transpose() {
            Ok(token) => token,
            Err(error) => {
                self.store.item_failed(key, &error.to_string()).await?;
                return Ok(true);
            }
        };
        let wish = Wish {
            version: task.version.clone(),
            endpoint_id: Some(item.endpoint_id),
            token,
            metadata: item.metadata,
            group: None,
            relations: Vec::new(),
        };
        let correlation_id = format!("{}-{}", key.task_id, key.position);
        match self.registrar.register_item(&correlation_id, &task.tenant, wish, key).await {
            Ok(()) => Ok(true),
            Err(error) if error.may_pass() && chrono::Utc::now() - task.created_at < GIVE_UP_AFTER => {
                tracing::debug!(error = error.as_dyn(), task_id = %key.task_id, "an endpoint of a batch task waits");
                Ok(false)
            }
            Err(error) => {
                self.store.item_failed(key, &error.to_string()).await?;
                Ok(true)
            }
        }
    }
}
