//! Invoking a command on many endpoints: a batch, and its children in the same ledger.
//!
//! A batch and its targets are written in one transaction before the caller is answered. From then on it is worked off by whichever
//! replica has a hand free, also after a restart: see [`work`]. Each target is a row until its command is in the ledger, so
//! that every endpoint is accounted for at any moment: as a command, as one still to be invoked, or with the reason why it
//! never will be.

mod metrics;
mod read;
mod resolve;
mod store;
mod work;

use std::collections::BTreeSet;
use std::sync::Arc;

use ids::{ApplicationName, CommandType, CorrelationId, EndpointId, TenantId};
use ism::efmp::EP_LIST_BY_FILTER_REQUEST;
use ism::epmmp::EP_APP_VERSION_GET_REQUEST;
use ism::subject::instance;
use runtime::{Context, Subjects};
use sqlx::PgPool;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::config::Config;
use crate::connected::KnownApplications;
use crate::domain::{Idempotency, Payload, State, Ttl};
use crate::error::Error;
use crate::invocation::Invoker;
use crate::ledger::{ENDPOINT_DELETED, Ledger};

pub(crate) use read::{Child, Order, Selection, Sort, Task};
pub(crate) use store::BatchState;

use metrics::Metrics;
use store::{Entered, NewRow, Store};
use work::Work;

/// Commands of a batch that are cancelled with one transaction.
const CANCELLED_AT_ONCE: u32 = 1_000;
/// Commands that are cancelled with their batch: what a device has acknowledged stays.
const CANCELLED_STATES: [State; 2] = [State::Created, State::Sent];

/// A command that is to be invoked on many endpoints.
#[derive(Debug, Clone)]
pub(crate) struct NewBatch {
    pub(crate) tenant: TenantId,
    /// The applications that the caller may command; none: all of the tenant. The endpoints are of one of them.
    pub(crate) applications: Option<BTreeSet<ApplicationName>>,
    pub(crate) command_type: CommandType,
    pub(crate) targets: Targets,
    pub(crate) payload: Option<Payload>,
    /// Of each command; it counts from when that is invoked.
    pub(crate) ttl: Ttl,
    /// Commands that are invoked in a second at most; none: as fast as it goes.
    pub(crate) rate_per_second: Option<u32>,
    /// No more are invoked when more than so many percent of those that ended have failed.
    pub(crate) abort_failed_percent: Option<u8>,
    pub(crate) idempotency: Option<Idempotency>,
    /// Where the application hears of the results, for one that commands over topics.
    pub(crate) response_topic: Option<String>,
    pub(crate) correlation_id: CorrelationId,
}

/// Which endpoints.
#[derive(Debug, Clone)]
pub(crate) enum Targets {
    /// Those that match an endpoint filter at this moment, by its id.
    Filter(String),
    /// These; one that is named twice is commanded once.
    Endpoints(Vec<EndpointId>),
}

/// A batch that is in the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CreatedBatch {
    pub(crate) task_id: Uuid,
    pub(crate) application: ApplicationName,
    /// It was there before, under the same idempotency key.
    pub(crate) is_repeated: bool,
}

/// What batches need on NATS: the register says which endpoints there are.
pub(crate) fn subjects(own: Subjects) -> Subjects {
    own.asks(instance::EPR, EP_LIST_BY_FILTER_REQUEST).asks(instance::EPR, EP_APP_VERSION_GET_REQUEST)
}

/// Takes batches, works them off and tells of them. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Batches {
    context: Context,
    config: Arc<Config>,
    ledger: Ledger,
    invoker: Invoker,
    applications: KnownApplications,
    store: Store,
    metrics: Arc<Metrics>,
    wake: Arc<Notify>,
}

impl Batches {
    pub(crate) fn new(
        context: Context,
        config: Arc<Config>,
        pool: PgPool,
        ledger: Ledger,
        invoker: Invoker,
        applications: KnownApplications,
    ) -> Self {
        let (metrics, wake) = (Arc::new(Metrics::new()), Arc::new(Notify::new()));
        Self { context, config, ledger, invoker, applications, store: Store::new(pool), metrics, wake }
    }

    /// Works off batches for as long as the service runs.
    pub(crate) fn start(&self) {
        let (store, ledger) = (self.store.clone(), self.ledger.clone());
        let work = Work::new(store, ledger, self.config.clone(), self.metrics.clone());
        let (invoker, wake, stopping) = (self.invoker.clone(), self.wake.clone(), self.context.stopping());
        self.context.spawn("work off batches", async move {
            work.run(&invoker, &wake, &stopping).await;
            Ok(())
        });
    }

    /// Takes a batch: once this returns it is durable and will be worked off. The same idempotency key is the same batch,
    /// whatever the filter matches by now.
    ///
    /// # Errors
    /// When a limit is broken, an endpoint or the filter does not exist, the endpoints are of several applications or of one
    /// that the caller may not command, or the register cannot be asked.
    pub(crate) async fn create(&self, new: NewBatch) -> Result<CreatedBatch, Error> {
        self.invoker.check(new.payload.as_ref(), new.ttl)?;
        check_pace(&new)?;
        if let Some(idempotency) = &new.idempotency
            && let Some(found) = self.store.find(&new.tenant, idempotency).await?
        {
            return repeated(&new, found);
        }
        let resolved = self.resolve(&new).await?;
        check_reach(&new, &resolved.application)?;
        let row = NewRow::new(&new, &resolved.application)?;
        let open_max = i64::from(self.config.batches_open_max);
        let application = resolved.application.clone();
        match self.store.enter(&row, &resolved.endpoints, open_max).await? {
            Entered::New(task_id) => {
                self.metrics.created();
                self.wake.notify_one();
                Ok(CreatedBatch { task_id, application, is_repeated: false })
            }
            Entered::Repeated(found) => repeated(&new, found),
            Entered::TooMany(open) => Err(Error::TooManyBatches(open)),
        }
    }

    /// Invokes nothing more on an endpoint that was deleted: it may be registered anew, by another tenant.
    pub(crate) async fn forget_endpoint(&self, endpoint: &EndpointId) -> sqlx::Result<()> {
        self.store.forget_endpoint(endpoint, ENDPOINT_DELETED).await
    }

    /// Cancels what is not yet delivered: no more commands are invoked from now on, and those that were not acknowledged
    /// are cancelled, each as soon as no attempt can deliver it any more.
    ///
    /// # Errors
    /// When the batch had completed before, or there is no such batch.
    pub(crate) async fn cancel(
        &self,
        tenant: &TenantId,
        application: &ApplicationName,
        task_id: Uuid,
    ) -> Result<Task, Error> {
        const REASON: &str = "the batch was cancelled";
        let stopped = self.store.cancel(tenant, application, task_id, REASON).await?;
        if let Some((_, state)) = stopped {
            self.metrics.ended(state);
        }
        if let Some((batch, BatchState::Cancelled)) = stopped {
            // The worker goes on with it should this process die here.
            while self.ledger.cancel_of_batch(batch, &CANCELLED_STATES, REASON, CANCELLED_AT_ONCE).await?
                >= u64::from(CANCELLED_AT_ONCE)
            {}
            self.wake.notify_one();
        }
        let task = self.task(tenant, application, task_id).await?;
        if task.state == BatchState::Completed {
            return Err(Error::Conflict(format!(
                "batch {task_id} has completed: there is nothing left to cancel"
            )));
        }
        Ok(task)
    }
}

/// The batch of an idempotency key, if the caller may know of it.
fn repeated(new: &NewBatch, found: (Uuid, ApplicationName)) -> Result<CreatedBatch, Error> {
    let (task_id, application) = found;
    check_reach(new, &application)?;
    Ok(CreatedBatch { task_id, application, is_repeated: true })
}

fn check_reach(new: &NewBatch, application: &ApplicationName) -> Result<(), Error> {
    match &new.applications {
        Some(applications) if !applications.contains(application) => Err(Error::Forbidden(format!(
            "no right to command endpoints of the application {application}: ask an administrator"
        ))),
        _ => Ok(()),
    }
}

/// The most commands that a batch may have invoked in a second.
const RATE_PER_SECOND_MAX: u32 = 10_000;

fn check_pace(new: &NewBatch) -> Result<(), Error> {
    if new.rate_per_second.is_some_and(|rate| !(1..=RATE_PER_SECOND_MAX).contains(&rate)) {
        return Err(Error::Refused(format!(
            "ratePerSecond must be an integer from 1 to {RATE_PER_SECOND_MAX}; leave it out for no limit"
        )));
    }
    if new.abort_failed_percent.is_some_and(|percent| percent > 99) {
        return Err(Error::Refused(
            "abortFailedPercent must be an integer from 0 to 99; leave it out to go on whatever fails"
                .to_owned(),
        ));
    }
    Ok(())
}
