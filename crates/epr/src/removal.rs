//! Deletes endpoints, so that nothing of them is left and nobody is told so too early.
//!
//! The steps, and what an interruption after each leaves behind:
//!
//! 1. The row is marked: nobody sees the endpoint any more, its relations and matches are gone. The id is not free.
//! 2. `cm` deletes its tokens. When it does not say so, the caller is told 503; the sweeper goes on. Only one asks it at a
//!    time, and a request that nobody waits for any more is over before the next one: so none is left behind that would
//!    delete the tokens of an endpoint that is registered under the same id later.
//! 3. The row goes, and what is remembered of it takes its place (30 days): a repeated request is answered with success.
//! 4. 9/ELCE `unregistered` goes out, and again after a minute, ten minutes, an hour and a day, for those who were away:
//!    what they keep for the endpoint goes with it.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::StreamExt as _;
use ids::{EndpointId, TenantId};
use runtime::{Applications, Context, LookupError};
use tokio::sync::Notify;

use crate::announcer::Announcer;
use crate::carry::carry_through;
use crate::error::Error;
use crate::filters::Filters;
use crate::store::{Doomed, Marked, Purge, PurgeOrder, Store};
use crate::tokens::Tokens;
use crate::updates::NoSettings;

/// Added to the time that `cm` has: then somebody else may go on with a deletion.
const REMOVE_TIME: Duration = Duration::from_secs(10);
/// When the sweeper could not finish deletions, it leaves them for so long.
const PAUSE: Duration = Duration::from_secs(3);
/// Endpoints in one step of the sweeper.
const STEP: i64 = 200;
/// Endpoints that are deleted at once, by the sweeper or by one request.
const CONCURRENT: usize = 4;
/// How often a deletion is tried that collides with other transactions.
const ATTEMPTS: u32 = 4;
/// What is known of applications is not older than a minute: one that is still there after this was not deleted.
const DOUBT: chrono::Duration = chrono::Duration::seconds(90);
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Deletes endpoints. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Remover {
    context: Context,
    announcer: Announcer,
    applications: Applications<NoSettings>,
    tokens: Tokens,
    filters: Filters,
    store: Store,
    hold: Duration,
    wake: Arc<Notify>,
}

impl Remover {
    pub(crate) fn new(
        context: Context,
        announcer: Announcer,
        applications: Applications<NoSettings>,
        tokens: Tokens,
        filters: Filters,
        store: Store,
        token_timeout: Duration,
    ) -> Self {
        let hold = token_timeout + REMOVE_TIME;
        Self { context, announcer, applications, tokens, filters, store, hold, wake: Arc::default() }
    }

    /// Deletes an endpoint of the tenant. Once begun it goes on to its end, if not now then later.
    pub(crate) async fn delete(
        &self,
        correlation_id: String,
        tenant: TenantId,
        endpoint_id: EndpointId,
    ) -> Result<(), Error> {
        let remover = self.clone();
        carry_through(&self.context, async move {
            match remover.mark(&correlation_id, &tenant, &endpoint_id, remover.hold).await? {
                Some(doomed) => remover.finish(&correlation_id, doomed, Duration::ZERO).await,
                None => Ok(()),
            }
        })
        .await
    }

    /// Deletes endpoints of the tenant, and returns those that are not gone now. All are hidden first; when `cm` does not
    /// answer for one, it is not asked for the others: the sweeper goes on.
    pub(crate) async fn delete_all(
        &self,
        correlation_id: String,
        tenant: TenantId,
        endpoint_ids: Vec<EndpointId>,
    ) -> Result<Vec<(EndpointId, Error)>, Error> {
        let remover = self.clone();
        carry_through(&self.context, async move {
            let mut failed = Vec::new();
            let mut hidden = Vec::new();
            let marking = futures::stream::iter(endpoint_ids).map(|endpoint_id| {
                let (remover, correlation_id, tenant) = (&remover, &correlation_id, &tenant);
                async move {
                    (remover.mark(correlation_id, tenant, &endpoint_id, remover.hold).await, endpoint_id)
                }
            });
            for (marked, endpoint_id) in marking.buffer_unordered(CONCURRENT).collect::<Vec<_>>().await {
                match marked {
                    Ok(Some(doomed)) => hidden.push(doomed),
                    Ok(None) => {}
                    Err(error) => failed.push((endpoint_id, error)),
                }
            }
            failed.extend(remover.finish_all(&correlation_id, hidden, Duration::ZERO).await);
            Ok(failed)
        })
        .await
    }

    /// What cannot be finished is left to others after a pause.
    async fn finish_all(
        &self,
        correlation_id: &str,
        hidden: Vec<Doomed>,
        pause: Duration,
    ) -> Vec<(EndpointId, Error)> {
        let away: Arc<OnceLock<String>> = Arc::default();
        let finishing = futures::stream::iter(hidden).map(|mut doomed| {
            let (remover, correlation_id, away) = (self.clone(), correlation_id.to_owned(), away.clone());
            async move {
                let endpoint_id = doomed.endpoint_id.clone();
                if let Some(reason) = away.get() {
                    remover.leave(&mut doomed, pause).await;
                    return Some((
                        endpoint_id.clone(),
                        Error::TokensLeft { endpoint_id, reason: reason.clone() },
                    ));
                }
                let error = remover.finish(&correlation_id, doomed, pause).await.err()?;
                if let Error::TokensLeft { reason, .. } = &error {
                    away.get_or_init(|| reason.clone());
                }
                Some((endpoint_id, error))
            }
        });
        finishing.buffer_unordered(CONCURRENT).filter_map(std::future::ready).collect().await
    }

    /// `None`: it is gone already.
    async fn mark(
        &self,
        correlation_id: &str,
        tenant: &TenantId,
        endpoint_id: &EndpointId,
        due: Duration,
    ) -> Result<Option<Doomed>, Error> {
        let mut attempt = 1;
        let marked = loop {
            match self.store.mark(tenant, endpoint_id, due).await {
                Err(error) if error.is_collision() && attempt < ATTEMPTS => attempt += 1,
                marked => break marked?,
            }
        };
        match marked {
            Marked::Hidden(doomed, matches) => {
                if let Some(matches) = matches {
                    matches.publish(&self.context, correlation_id).await;
                }
                Ok(Some(doomed))
            }
            Marked::Gone => Ok(None),
        }
    }

    async fn finish(&self, correlation_id: &str, mut doomed: Doomed, pause: Duration) -> Result<(), Error> {
        if !self.store.hold(&mut doomed, self.hold).await? {
            return Err(Error::Deleting(doomed.endpoint_id));
        }
        if let Err(reason) = self.tokens.delete(correlation_id, &doomed).await {
            self.leave(&mut doomed, pause).await;
            return Err(Error::TokensLeft { endpoint_id: doomed.endpoint_id, reason });
        }
        if self.store.remove(&doomed).await?.is_some() {
            self.announcer.unregistered(correlation_id, &doomed).await;
        }
        Ok(())
    }

    /// Lets others go on with a deletion.
    async fn leave(&self, doomed: &mut Doomed, pause: Duration) {
        if let Err(error) = self.store.hold(doomed, pause).await {
            let endpoint_id = &doomed.endpoint_id;
            // Its time ends by itself.
            tracing::warn!(error = error.as_dyn(), %endpoint_id, "a deletion rests for some seconds");
        }
    }

    /// Has all endpoints of an application deleted, or of a tenant, once it is certain that it is gone.
    pub(crate) async fn order_purge(&self, purge: &Purge) -> Result<(), Error> {
        self.store.order_purge(purge).await?;
        self.wake.notify_one();
        Ok(())
    }

    /// Finishes what others have begun, for as long as the service runs.
    pub(crate) async fn sweep(self, interval: Duration) -> anyhow::Result<()> {
        let stopping = self.context.stopping();
        while !stopping.is_cancelled() {
            let more = match self.step().await {
                Ok(more) => more,
                Err(error) => {
                    tracing::warn!(
                        error = error.as_dyn(),
                        "deleted endpoints are not removed yet; it is tried later"
                    );
                    false
                }
            };
            if !more {
                tokio::select! {
                    () = tokio::time::sleep(interval) => {}
                    () = self.wake.notified() => {}
                    () = stopping.cancelled() => {}
                }
            }
        }
        Ok(())
    }

    /// Whether there is more to do at once.
    async fn step(&self) -> Result<bool, Error> {
        let correlation_id = format!("{}-{:x}", self.context.replica(), rand::random::<u64>());
        let purging = self.purge(&correlation_id).await?;
        let overdue = self.store.overdue(STEP, self.hold).await?;
        let full = i64::try_from(overdue.len()) == Ok(STEP);
        let failed = self.finish_all(&correlation_id, overdue, PAUSE).await;
        if let Some((_, error)) = failed.first() {
            let endpoints = failed.len();
            tracing::warn!(
                error = error.as_dyn(),
                endpoints,
                "endpoints are not deleted yet; it is tried later"
            );
        }
        let announced = self.announce(&correlation_id).await?;
        self.store.forget_deleted(STEP).await?;
        Ok(purging || announced || (full && failed.is_empty()))
    }

    /// Marks endpoints of what is gone. Whether there are more.
    async fn purge(&self, correlation_id: &str) -> Result<bool, Error> {
        let mut marked = false;
        for order in self.store.purges().await? {
            if !self.is_certain(&order).await? {
                continue;
            }
            let Purge { tenant, application } = &order.purge;
            let endpoint_ids = self.store.to_purge(&order, STEP).await?;
            if endpoint_ids.is_empty() {
                if self.store.hide_abandoned(&order, STEP).await? > 0 {
                    marked = true;
                    continue;
                }
                self.filters.purge(correlation_id, tenant, application.as_ref(), order.requested_at).await?;
                self.store.purged(&order).await?;
            }
            marked |= !endpoint_ids.is_empty();
            for endpoint_id in endpoint_ids {
                // Somebody else may have marked it meanwhile.
                match self.mark(correlation_id, tenant, &endpoint_id, Duration::ZERO).await {
                    Ok(_) | Err(Error::UnknownEndpoint(_) | Error::Deleting(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(marked)
    }

    /// Whether an application is gone. When it turns out that it is not, the order is dropped: a mistaken event must not
    /// delete a million endpoints.
    async fn is_certain(&self, order: &PurgeOrder) -> Result<bool, Error> {
        let Some(application) = &order.purge.application else { return Ok(true) };
        match self.applications.application(application).await {
            Err(LookupError::Unknown) => Ok(true),
            Ok(found) if found.tenant_id != order.purge.tenant => Ok(true),
            Ok(_) if chrono::Utc::now() - order.requested_at > DOUBT => {
                tracing::warn!(%application, "an application was said to be deleted and is there: its endpoints stay");
                self.store.purged(order).await?;
                Ok(false)
            }
            Ok(_) | Err(LookupError::Unavailable(_)) => Ok(false),
        }
    }

    /// Announces deletions again. Whether there may be more.
    async fn announce(&self, correlation_id: &str) -> Result<bool, Error> {
        let announce = async |due: &[Doomed]| {
            for doomed in due {
                if !self.announcer.unregistered(correlation_id, doomed).await {
                    return false;
                }
            }
            let flushed = tokio::time::timeout(FLUSH_TIMEOUT, self.context.nats().flush()).await;
            matches!(flushed, Ok(Ok(())))
        };
        let announced = self.store.announce_due(STEP, announce).await?;
        Ok(i64::try_from(announced) == Ok(STEP))
    }
}
