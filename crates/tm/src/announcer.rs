//! Tells other services and the other replicas what has changed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ids::TenantId;
use ism::auth::{ACCESS_CHANGED, AccessChangedEvent};
use ism::{Record as _, tle};
use runtime::Context;
use tokio::sync::{Mutex, watch};

use crate::error::Error;
use crate::keyring::KeyRing;
use crate::principals::Principals;
use crate::store::Store;

/// A change of access is told a second time after so long. Between the first time and the moment when all replicas of
/// this service have heard of it, one of them may still have given an answer from before.
const TELL_AGAIN: Duration = Duration::from_secs(2);
/// How long NATS may take to take an event in.
const TAKEN_IN_TIMEOUT: Duration = Duration::from_secs(5);
/// Deletions that are told of at once.
const UNANNOUNCED_MAX: i64 = 100;

/// How long a change waits until NATS has brought it back here, before whoever made it is answered: by then it is on its
/// way to everybody else, and the change holds when the answer comes.
const ECHO_TIMEOUT: Duration = Duration::from_secs(1);

/// Publishes events. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Announcer {
    context: Context,
    store: Store,
    principals: Arc<Principals>,
    /// Own changes that have come back. One is waited for at a time, so that the next that comes back is most likely it.
    echoes: Arc<Mutex<watch::Receiver<u64>>>,
}

impl Announcer {
    /// Follows what other replicas of the service say, too, as long as the service runs.
    pub(crate) async fn start(
        context: &Context,
        store: Store,
        principals: Arc<Principals>,
        keyring: Arc<KeyRing>,
    ) -> anyhow::Result<Self> {
        let (heard, echoes) = watch::channel(0);
        follow(context, principals.clone(), keyring, heard).await?;
        Ok(Self { context: context.clone(), store, principals, echoes: Arc::new(Mutex::new(echoes)) })
    }

    /// After a commit that changes what anybody of the tenant may do: it holds at once here, and wherever credentials
    /// were looked into. When this is lost (a crash in between, NATS away) it holds there within half a minute.
    pub(crate) async fn access_changed(&self, correlation_id: &str, tenant: &TenantId) {
        self.principals.forget();
        self.tell_access_changed(correlation_id, tenant).await;
        let (again, correlation_id, tenant) = (self.clone(), correlation_id.to_owned(), tenant.clone());
        self.context.task(async move {
            let stopping = again.context.stopping();
            tokio::select! {
                () = tokio::time::sleep(TELL_AGAIN) => {}
                () = stopping.cancelled() => {}
            }
            again.publish_access_changed(&correlation_id, &tenant).await;
        });
    }

    /// Publishes the event and waits until it has come back.
    async fn tell_access_changed(&self, correlation_id: &str, tenant: &TenantId) {
        let mut echoes = self.echoes.lock().await;
        echoes.mark_unchanged();
        if self.publish_access_changed(correlation_id, tenant).await {
            // Without an echo the change is told all the same, only later.
            let _ = tokio::time::timeout(ECHO_TIMEOUT, echoes.changed()).await;
        }
    }

    async fn publish_access_changed(&self, correlation_id: &str, tenant: &TenantId) -> bool {
        let event = AccessChangedEvent {
            correlation_id: correlation_id.to_owned(),
            timestamp: runtime::now_ms(),
            timeout: 0,
            tenant_id: tenant.to_string(),
            originator_replica_id: self.context.replica().to_string(),
        };
        self.publish(ACCESS_CHANGED.of(self.context.instance()), event.encode()).await
    }

    /// 21/TLE: what is known of a tenant has changed.
    pub(crate) async fn tenant_updated(&self, correlation_id: &str, tenant: &TenantId) {
        let event = tle::UpdatedEvent {
            correlation_id: correlation_id.to_owned(),
            timestamp: runtime::now_ms(),
            timeout: 0,
            tenant_id: tenant.to_string(),
            originator_replica_id: self.context.replica().to_string(),
        };
        self.publish(tle::UPDATED.of(self.context.instance()), event.encode()).await;
    }

    /// 21/TLE: a tenant is gone. Fails when that cannot be told; it is told later then.
    pub(crate) async fn tenant_unregistered(
        &self,
        correlation_id: &str,
        tenant: &TenantId,
    ) -> Result<(), Error> {
        let event = tle::UnregisteredEvent {
            correlation_id: correlation_id.to_owned(),
            timestamp: runtime::now_ms(),
            timeout: 0,
            tenant_id: tenant.to_string(),
            originator_replica_id: self.context.replica().to_string(),
        };
        if !self.publish(tle::UNREGISTERED.of(self.context.instance()), event.encode()).await {
            return Err(Error::Unannounced);
        }
        self.context.published(TAKEN_IN_TIMEOUT).await.map_err(|_| Error::Unannounced)?;
        self.store.tenant_announced(tenant).await
    }

    /// Tells of deletions that were cut off before they were told.
    pub(crate) async fn catch_up(&self) -> Result<(), Error> {
        for tenant in self.store.unannounced_tenants(UNANNOUNCED_MAX).await? {
            let correlation_id = uuid::Uuid::now_v7().simple().to_string();
            self.access_changed(&correlation_id, &tenant).await;
            self.tenant_unregistered(&correlation_id, &tenant).await?;
        }
        Ok(())
    }

    /// Tells again of deletions that were told: a service that was away then would keep a tenant's devices for ever.
    pub(crate) async fn tell_again(&self) -> Result<(), Error> {
        for tenant in self.store.tenants_to_announce_again(UNANNOUNCED_MAX).await? {
            let correlation_id = uuid::Uuid::now_v7().simple().to_string();
            self.tenant_unregistered(&correlation_id, &tenant).await?;
        }
        Ok(())
    }

    async fn publish(&self, subject: String, payload: Bytes) -> bool {
        let sent = self.context.nats().publish(subject.clone(), payload).await;
        if let Err(error) = &sent {
            tracing::warn!(subject, %error, "an event could not be sent");
        }
        sent.is_ok()
    }
}

async fn follow(
    context: &Context,
    principals: Arc<Principals>,
    keyring: Arc<KeyRing>,
    heard: watch::Sender<u64>,
) -> anyhow::Result<()> {
    let mut events = context.subscribe(ACCESS_CHANGED.of(context.instance()), None).await?;
    let own = context.replica().to_string();
    context.spawn("follow changes of access", async move {
        while let Some(message) = events.next().await {
            match AccessChangedEvent::decode(&message.payload) {
                Ok(event) if event.originator_replica_id == own => {
                    heard.send_modify(|count| *count += 1);
                    continue;
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "a change of access could not be read"),
            }
            principals.forget();
            // A new signing key is told as a change too.
            if let Err(error) = keyring.reread().await {
                tracing::warn!(error = &error as &dyn std::error::Error, "signing keys cannot be read");
            }
        }
        Ok(())
    });
    Ok(())
}
