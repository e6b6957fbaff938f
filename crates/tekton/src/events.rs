//! 17/SCMP: tells other services that configuration has changed.
//!
//! Events go out after the commit. One that is lost (a crash between the two, NATS away) leaves a reader with
//! what it has until that is too old; readers ask again after a minute. Deletions are told several times (see
//! [`crate::removal`]): who keeps data for an application must hear of its end.

use std::collections::BTreeSet;

use bytes::Bytes;
use ids::TenantId;
use ism::Record as _;
use ism::scmp::{self, BroadcastConfigurationUpdateEvent, ServiceSpecificConfigurationUpdateEvent};
use ism::subject::Event;
use runtime::Context;

use crate::document::{Level, Scope};
use crate::store::{Change, Deletion};

/// Publishes configuration events. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Events {
    context: Context,
}

/// What an event is about: a tenant alone, an application, or a version.
#[derive(Debug, Default)]
struct About {
    app_name: Option<String>,
    app_ver_name: Option<String>,
}

impl About {
    fn new(scope: &Scope, level: &Level) -> Self {
        let app_ver_name = match level {
            Level::Tenant | Level::Application => None,
            Level::Version(version) => Some(version.to_string()),
        };
        Self { app_name: scope.application().map(ToString::to_string), app_ver_name }
    }

    fn whole(scope: &Scope) -> Self {
        match scope {
            Scope::Tenant(_) => Self::default(),
            Scope::Application(_) => Self::new(scope, &Level::Application),
            Scope::Version(_, version) => Self::new(scope, &Level::Version(version.clone())),
        }
    }
}

impl Events {
    pub(crate) fn new(context: Context) -> Self {
        Self { context }
    }

    /// An application or version is new: every service may now be asked about it.
    pub(crate) async fn created(&self, correlation_id: &str, tenant: &TenantId, scope: &Scope) {
        self.broadcast(scmp::UPSERTED, correlation_id, tenant.as_str(), About::whole(scope)).await;
    }

    /// Blocks have changed: one broadcast for each level, one targeted event for each block.
    pub(crate) async fn changed(
        &self,
        correlation_id: &str,
        tenant: &TenantId,
        scope: &Scope,
        changes: &[Change],
    ) {
        let levels: BTreeSet<&Level> = changes.iter().map(|change| &change.level).collect();
        for level in levels {
            let about = About::new(scope, level);
            self.broadcast(scmp::UPSERTED, correlation_id, tenant.as_str(), about).await;
        }
        for change in changes {
            self.targeted(correlation_id, tenant, scope, change).await;
        }
    }

    /// An application, with all its versions, or a version exists no more.
    pub(crate) async fn deleted(&self, correlation_id: &str, deletion: Deletion) {
        let about = About {
            app_name: Some(deletion.application_name),
            app_ver_name: Some(deletion.app_version_name).filter(|version| !version.is_empty()),
        };
        self.broadcast(scmp::DELETED, correlation_id, &deletion.tenant_id, about).await;
    }

    /// Nothing is configured for a tenant any more.
    pub(crate) async fn tenant_deleted(&self, correlation_id: &str, tenant: &TenantId) {
        self.broadcast(scmp::DELETED, correlation_id, tenant.as_str(), About::default()).await;
    }

    async fn broadcast(&self, event: Event, correlation_id: &str, tenant: &str, about: About) {
        let record = BroadcastConfigurationUpdateEvent {
            correlation_id: correlation_id.to_owned(),
            timestamp: runtime::now_ms(),
            originator_replica_id: self.context.replica().to_string(),
            tenant_id: Some(tenant.to_owned()),
            app_name: about.app_name,
            app_ver_name: about.app_ver_name,
        };
        self.publish(event.of(self.context.instance()), record.encode()).await;
    }

    async fn targeted(&self, correlation_id: &str, tenant: &TenantId, scope: &Scope, change: &Change) {
        let About { app_name, app_ver_name } = About::new(scope, &change.level);
        let event = ServiceSpecificConfigurationUpdateEvent {
            correlation_id: correlation_id.to_owned(),
            timestamp: runtime::now_ms(),
            tenant_id: tenant.to_string(),
            app_name,
            app_ver_name,
        };
        let message = if change.removed { scmp::DELETE } else { scmp::UPSERT };
        self.publish(message.service(&change.instance), event.encode()).await;
    }

    async fn publish(&self, subject: String, payload: Bytes) {
        if let Err(error) = self.context.nats().publish(subject.clone(), payload).await {
            tracing::warn!(subject, %error, "a configuration event could not be sent; readers notice within a minute");
        }
    }
}
