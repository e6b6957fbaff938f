//! 17/SCMP: tells other services that configuration has changed.
//!
//! Events go out after the commit. One that is lost (a crash between the two, NATS away) leaves a reader with
//! what it has until that is too old; readers ask again after a minute.

use std::collections::BTreeSet;

use bytes::Bytes;
use ids::{AppVersionName, ApplicationName, TenantId};
use ism::Record as _;
use ism::scmp::{self, BroadcastConfigurationUpdateEvent, ServiceSpecificConfigurationUpdateEvent};
use runtime::Context;

use crate::document::Level;
use crate::store::Change;

/// Publishes configuration events. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Events {
    context: Context,
}

impl Events {
    pub(crate) fn new(context: Context) -> Self {
        Self { context }
    }

    /// An application or version is new: every service may now be asked about it.
    pub(crate) async fn created(
        &self,
        correlation_id: &str,
        tenant: &TenantId,
        application: &ApplicationName,
        version: Option<&AppVersionName>,
    ) {
        self.broadcast(correlation_id, tenant, application, version).await;
    }

    /// Blocks have changed: one broadcast for each level, one targeted event for each block.
    pub(crate) async fn changed(
        &self,
        correlation_id: &str,
        tenant: &TenantId,
        application: &ApplicationName,
        changes: &[Change],
    ) {
        let levels: BTreeSet<&Level> = changes.iter().map(|change| &change.level).collect();
        for level in levels {
            self.broadcast(correlation_id, tenant, application, version_of(level)).await;
        }
        for change in changes {
            self.targeted(correlation_id, tenant, application, change).await;
        }
    }

    async fn broadcast(
        &self,
        correlation_id: &str,
        tenant: &TenantId,
        application: &ApplicationName,
        version: Option<&AppVersionName>,
    ) {
        let event = BroadcastConfigurationUpdateEvent {
            correlation_id: correlation_id.to_owned(),
            timestamp: runtime::now_ms(),
            originator_replica_id: self.context.replica().to_string(),
            tenant_id: Some(tenant.to_string()),
            app_name: Some(application.to_string()),
            app_ver_name: version.map(ToString::to_string),
        };
        self.publish(scmp::UPSERTED.of(self.context.instance()), event.encode()).await;
    }

    async fn targeted(
        &self,
        correlation_id: &str,
        tenant: &TenantId,
        application: &ApplicationName,
        change: &Change,
    ) {
        let event = ServiceSpecificConfigurationUpdateEvent {
            correlation_id: correlation_id.to_owned(),
            timestamp: runtime::now_ms(),
            tenant_id: tenant.to_string(),
            app_name: Some(application.to_string()),
            app_ver_name: version_of(&change.level).map(ToString::to_string),
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

fn version_of(level: &Level) -> Option<&AppVersionName> {
    match level {
        Level::Application => None,
        Level::Version(version) => Some(version),
    }
}
