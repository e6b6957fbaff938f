//! Removing the points of endpoints and applications that are gone.
//!
//! An event only says that something may be gone; it is removed when its register confirms that. So neither an event that
//! comes late, after an endpoint was registered anew, nor a wrong one removes what was confirmed to a device.

mod store;

use std::sync::Arc;
use std::time::Duration;

use ids::{ApplicationName, EndpointId, TenantId};
use ism::{BroadcastConfigurationUpdateEvent, Record as _, UnregisteredEvent, elce, scmp, tle};
use runtime::{Applications, Context, LookupError, Subjects};
use sqlx::PgPool;
use tokio::sync::Notify;

use crate::settings::EptsSettings;
use store::{Kind, Removal, Store};

/// How often it is looked whether there is something to remove.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How often marked series are looked through.
const PURGE_EVERY: Duration = Duration::from_secs(60);
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// How often an event is tried to be noted. The registers repeat theirs.
const NOTE_ATTEMPTS: u32 = 5;

/// What the removal needs on NATS.
pub(crate) fn subjects(own: Subjects) -> Subjects {
    own.hears(elce::UNREGISTERED).hears(scmp::DELETED).hears(tle::UNREGISTERED)
}

/// Removes what is gone. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Removals {
    context: Context,
    applications: Applications<EptsSettings>,
    store: Store,
    /// Told when there is something to remove.
    noted: Arc<Notify>,
}

/// What an event says is gone.
enum Gone {
    Endpoint(EndpointId),
    Application(TenantId, ApplicationName),
    Tenant(TenantId),
}

/// What its register says of something that is to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Gone,
    /// It is there: nothing of it may be removed.
    There,
    /// The register cannot be asked.
    Unknown,
}

/// Whether a removal is done.
enum End {
    Done,
    /// It cannot be told now whether it may be done.
    Later,
}

impl Removals {
    /// Hears what goes, and removes it, for as long as the service runs.
    pub(crate) async fn start(
        context: &Context,
        applications: Applications<EptsSettings>,
        pool: PgPool,
    ) -> anyhow::Result<()> {
        let noted = Arc::new(Notify::new());
        let removals = Self { context: context.clone(), applications, store: Store::new(pool), noted };
        removals.hear("hear of deleted endpoints", elce::UNREGISTERED.of_any(), endpoint).await?;
        removals.hear("hear of deleted applications", scmp::DELETED.of_any(), application).await?;
        removals.hear("hear of deleted tenants", tle::UNREGISTERED.of_any(), tenant).await?;
        context.spawn("remove points", removals.run());
        Ok(())
    }

    async fn hear(
        &self,
        name: &'static str,
        subject: String,
        read: impl Fn(&bytes::Bytes) -> Result<Option<Gone>, ism::DecodeError> + Send + 'static,
    ) -> anyhow::Result<()> {
        let queue = self.context.instance().as_str();
        let mut events = self.context.subscribe(subject, Some(queue)).await?;
        let removals = self.clone();
        self.context.spawn(name, async move {
            while let Some(message) = events.next().await {
                match read(&message.payload) {
                    Ok(Some(gone)) => removals.note(&gone).await,
                    Ok(None) => {}
                    Err(error) => tracing::warn!(%error, "an event about something deleted cannot be read"),
                }
            }
            Ok(())
        });
        Ok(())
    }

    /// Notes what is gone, so that it is removed also if this process ends before.
    async fn note(&self, gone: &Gone) {
        for attempt in 1..=NOTE_ATTEMPTS {
            let noted = match gone {
                Gone::Endpoint(endpoint) => self.store.note_endpoint(endpoint).await,
                Gone::Application(tenant, application) => {
                    self.store.note_application(tenant, application).await
                }
                Gone::Tenant(tenant) => self.store.note_tenant(tenant).await,
            };
            match noted {
                Ok(()) => return self.noted.notify_waiters(),
                Err(error) => tracing::warn!(%error, attempt, "a removal could not be noted"),
            }
            tokio::time::sleep(Duration::from_millis(200) * attempt).await;
        }
    }

    async fn run(self) -> anyhow::Result<()> {
        let stopping = self.context.stopping();
        let mut purged = tokio::time::Instant::now();
        while !stopping.is_cancelled() {
            // Before the work: what is noted while it goes on must not be overheard.
            let noted = self.noted.notified();
            if let Err(error) = self.work().await {
                tracing::warn!(%error, "removing points failed; trying again");
            }
            if purged.elapsed() >= PURGE_EVERY {
                purged = tokio::time::Instant::now();
                if let Err(error) = self.store.purge_series().await {
                    tracing::warn!(%error, "series without points could not be removed; trying again");
                }
            }
            tokio::select! {
                () = noted => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = stopping.cancelled() => {}
            }
        }
        Ok(())
    }

    /// Removes all that is due.
    async fn work(&self) -> sqlx::Result<()> {
        while !self.context.stopping().is_cancelled()
            && let Some(removal) = self.store.take().await?
        {
            let end = match removal.kind {
                Kind::Endpoint => self.remove_endpoint(&removal).await?,
                Kind::Application => self.remove_application(&removal).await?,
            };
            match end {
                End::Done => self.store.settle(&removal).await?,
                End::Later => self.store.postpone(&removal).await?,
            }
        }
        Ok(())
    }

    async fn remove_endpoint(&self, removal: &Removal) -> sqlx::Result<End> {
        let Ok(endpoint) = EndpointId::parse(&removal.name) else { return Ok(End::Done) };
        for (tenant, application) in self.store.owners(&endpoint).await? {
            let whose = (&tenant, &application, &endpoint);
            let (points, verdict) = self.remove_points(removal, whose).await?;
            match verdict {
                Verdict::Gone => {
                    tracing::info!(%tenant, %application, points, "the points of a deleted endpoint were removed");
                }
                Verdict::There => {
                    tracing::info!(%tenant, %application, points, "an endpoint was reported as deleted and is there: its points stay");
                }
                Verdict::Unknown => {
                    tracing::debug!(%tenant, %application, points, "points of a deleted endpoint are removed later");
                    return Ok(End::Later);
                }
            }
        }
        Ok(End::Done)
    }

    async fn remove_application(&self, removal: &Removal) -> sqlx::Result<End> {
        let names = TenantId::parse(&removal.tenant_id).and_then(|tenant| {
            let application = ApplicationName::parse(&removal.name)?;
            Ok((tenant, application))
        });
        let Ok((tenant, application)) = names else { return Ok(End::Done) };
        let mut removed = 0;
        while let Some(endpoint) = self.store.next_endpoint(&tenant, &application).await? {
            let (points, verdict) = self.remove_points(removal, (&tenant, &application, &endpoint)).await?;
            removed += points;
            match verdict {
                Verdict::Gone => {}
                // The tenant may be about to be removed; an application that stays is not removed.
                Verdict::There => return Ok(if removal.is_old { End::Done } else { End::Later }),
                Verdict::Unknown => return Ok(End::Later),
            }
        }
        tracing::info!(%tenant, %application, points = removed, "the points of a deleted application were removed");
        Ok(End::Done)
    }

    /// Removes the points of an endpoint and marks its series; how many points, and the last word of the register. It is asked
    /// for every part, and anything but [`Verdict::Gone`] ends the removal. To do it again goes on where it ended.
    async fn remove_points(
        &self,
        removal: &Removal,
        (tenant, application, endpoint): (&TenantId, &ApplicationName, &EndpointId),
    ) -> sqlx::Result<(u64, Verdict)> {
        let mut points = 0;
        let series = self.store.series(tenant, application, endpoint).await?;
        for series_id in &series {
            loop {
                let part = self.store.part(*series_id).await?;
                let verdict = match removal.kind {
                    Kind::Endpoint => self.ask_endpoint(tenant, application, endpoint).await,
                    Kind::Application => self.ask_application(tenant, application).await,
                };
                if verdict != Verdict::Gone {
                    return Ok((points, verdict));
                }
                let removed = part.remove().await?;
                points += removed.points;
                if removed.is_last {
                    break;
                }
                self.store.hold(removal).await?;
            }
        }
        self.store.mark(&series).await?;
        Ok((points, Verdict::Gone))
    }

    /// Whether the application has no such endpoint any more, as the endpoint register says.
    async fn ask_endpoint(
        &self,
        tenant: &TenantId,
        application: &ApplicationName,
        endpoint: &EndpointId,
    ) -> Verdict {
        let correlation_id = format!("{}-{:x}", self.context.replica(), rand::random::<u64>());
        match self.context.application_of(&correlation_id, tenant, endpoint, ASK_TIMEOUT).await {
            // It was registered anew: what there is may be the new one's.
            Ok(current) if current == *application => Verdict::There,
            Ok(_) | Err(LookupError::Unknown) => Verdict::Gone,
            Err(LookupError::Unavailable(_)) => Verdict::Unknown,
        }
    }

    /// Whether the tenant has no such application any more, as the application register says.
    async fn ask_application(&self, tenant: &TenantId, application: &ApplicationName) -> Verdict {
        match self.applications.application(application).await {
            Ok(current) if current.tenant_id == *tenant => Verdict::There,
            Ok(_) | Err(LookupError::Unknown) => Verdict::Gone,
            Err(LookupError::Unavailable(_)) => Verdict::Unknown,
        }
    }
}

fn endpoint(payload: &bytes::Bytes) -> Result<Option<Gone>, ism::DecodeError> {
    let event = UnregisteredEvent::decode(payload)?;
    Ok(EndpointId::parse(&event.endpoint_id).ok().map(Gone::Endpoint))
}

/// Only whole applications: the points belong to those.
fn application(payload: &bytes::Bytes) -> Result<Option<Gone>, ism::DecodeError> {
    let event = BroadcastConfigurationUpdateEvent::decode(payload)?;
    let (Some(tenant), Some(name), None) = (event.tenant_id, event.app_name, event.app_ver_name) else {
        return Ok(None);
    };
    let names = TenantId::parse(&tenant).ok().zip(ApplicationName::parse(&name).ok());
    Ok(names.map(|(tenant, name)| Gone::Application(tenant, name)))
}

fn tenant(payload: &bytes::Bytes) -> Result<Option<Gone>, ism::DecodeError> {
    let event = tle::UnregisteredEvent::decode(payload)?;
    Ok(TenantId::parse(&event.tenant_id).ok().map(Gone::Tenant))
}
