//! Tells all services what happened to endpoints (9/ELCE, 15/EME), after it is committed.
//!
//! A broadcast may be lost, when NATS is away or the process dies; none is sent too early.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use ids::EndpointId;
use ism::Record as _;
use ism::elce::{
    APP_VERSION_UPDATED, AppVersionUpdatedEvent, REGISTERED, RegisteredEvent, UNREGISTERED, UnregisteredEvent,
};
use ism::eme::{METADATA_UPDATED, MetadataUpdatedEvent};
use ism::subject::Event;
use runtime::Context;

use crate::domain::NewEndpoint;
use crate::metadata::Difference;
use crate::store::{Doomed, Locked};

/// Publishes events. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Announcer {
    context: Context,
}

impl Announcer {
    pub(crate) fn new(context: Context) -> Self {
        Self { context }
    }

    pub(crate) async fn registered(&self, correlation_id: &str, endpoint: &NewEndpoint) {
        let event = RegisteredEvent {
            correlation_id: correlation_id.to_owned(),
            timestamp: runtime::now_ms(),
            timeout: 0,
            app_version_name: endpoint.version.to_string(),
            endpoint_id: endpoint.endpoint_id.to_string(),
            originator_replica_id: self.context.replica().to_string(),
        };
        self.publish(REGISTERED, &endpoint.endpoint_id, event.encode()).await;
    }

    /// The event has the time of the deletion, however often it is sent: what is newer than that belongs to an endpoint
    /// that was registered under the same id later.
    pub(crate) async fn unregistered(&self, correlation_id: &str, doomed: &Doomed) -> bool {
        let event = UnregisteredEvent {
            correlation_id: correlation_id.to_owned(),
            timestamp: doomed.deleted_at.timestamp_millis(),
            timeout: 0,
            app_version_name: doomed.app_version.to_string(),
            endpoint_id: doomed.endpoint_id.to_string(),
            originator_replica_id: self.context.replica().to_string(),
        };
        self.publish(UNREGISTERED, &doomed.endpoint_id, event.encode()).await
    }

    pub(crate) async fn app_version_updated(
        &self,
        correlation_id: &str,
        endpoint_id: &EndpointId,
        (previous, now): (&str, &str),
        at: DateTime<Utc>,
    ) {
        let event = AppVersionUpdatedEvent {
            correlation_id: correlation_id.to_owned(),
            timestamp: at.timestamp_millis(),
            timeout: 0,
            app_version_name: now.to_owned(),
            previous_app_version_name: previous.to_owned(),
            endpoint_id: endpoint_id.to_string(),
            originator_replica_id: self.context.replica().to_string(),
        };
        self.publish(APP_VERSION_UPDATED, endpoint_id, event.encode()).await;
    }

    /// The events of one endpoint have the times of its changes, by which they can be put in order.
    pub(crate) async fn metadata_updated(
        &self,
        correlation_id: &str,
        endpoint: &Locked,
        difference: Difference,
        at: DateTime<Utc>,
    ) {
        let event = MetadataUpdatedEvent {
            correlation_id: correlation_id.to_owned(),
            timestamp: at.timestamp_millis(),
            timeout: 0,
            app_version_name: endpoint.app_version.to_string(),
            endpoint_id: endpoint.endpoint_id.to_string(),
            removed: difference.removed,
            added: difference.added,
            updated: difference.updated,
            originator_replica_id: self.context.replica().to_string(),
        };
        self.publish(METADATA_UPDATED, &endpoint.endpoint_id, event.encode()).await;
    }

    async fn publish(&self, event: Event, endpoint_id: &EndpointId, payload: Bytes) -> bool {
        let subject = event.of(self.context.instance());
        match self.context.nats().publish(subject, payload).await {
            Ok(()) => true,
            Err(error) => {
                let event = event.event_type;
                tracing::warn!(%error, event, %endpoint_id, "an event could not be sent");
                false
            }
        }
    }
}
