//! 18/EFE: tells all services what became of filters and their endpoints. Always after the commit, so never too early; an
//! event may be lost (broadcasts are).

use bytes::Bytes;
use ism::Record as _;
use ism::efe::{
    ACTIVATED, DELETED, EP_MATCHED, EP_UNMATCHED, EndpointFilterActivatedEvent, EndpointFilterDeletedEvent,
    EndpointFilterPendingEvent, EndpointMatchedFilterEvent, EndpointUnmatchedFilterEvent, PENDING,
};
use ism::subject::GroupedEvent;
use runtime::Context;
use uuid::Uuid;

/// Endpoints that began or ceased to match filters in a transaction. Published once that is committed.
#[derive(Debug, Default)]
#[must_use = "others must be told once the transaction is committed"]
pub(crate) struct Changes(pub(super) Vec<Change>);

#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) filter_id: Uuid,
    pub(super) filter_name: String,
    pub(super) application: String,
    pub(super) app_version: String,
    pub(super) endpoint_id: String,
    /// Whether it matches from now on, or no more.
    pub(super) matches: bool,
    /// When, in milliseconds: by the clock of the database, while the endpoint was locked, so that two changes of it have
    /// their true order.
    pub(super) at_ms: i64,
}

impl Changes {
    /// Tells all services.
    pub(crate) async fn publish(&self, context: &Context, correlation_id: &str) {
        for change in &self.0 {
            let group = change.filter_id.to_string();
            let event = if change.matches { EP_MATCHED } else { EP_UNMATCHED };
            let payload = change.encode(context, correlation_id, &group);
            if !publish(context, event, &group, payload).await {
                // The connection refuses the next ones likewise.
                return;
            }
        }
    }
}

impl Change {
    fn encode(&self, context: &Context, correlation_id: &str, filter_id: &str) -> Bytes {
        // The two records differ in nothing but their names.
        macro_rules! encode {
            ($record:ident) => {
                $record {
                    timestamp: self.at_ms,
                    timeout: 0,
                    correlation_id: correlation_id.to_owned(),
                    originator_replica_id: context.replica().to_string(),
                    filter_id: filter_id.to_owned(),
                    application_name: self.application.clone(),
                    app_version_name: self.app_version.clone(),
                    filter_name: Some(self.filter_name.clone()),
                    endpoint_id: self.endpoint_id.clone(),
                }
                .encode()
            };
        }
        if self.matches { encode!(EndpointMatchedFilterEvent) } else { encode!(EndpointUnmatchedFilterEvent) }
    }
}

/// What became of a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Pending,
    Activated,
    Deleted,
}

/// Tells all services what became of a filter.
pub(super) async fn announce(
    context: &Context,
    correlation_id: &str,
    turn: Turn,
    application: &str,
    filter_id: Uuid,
    filter_name: &str,
) {
    let group = filter_id.to_string();
    macro_rules! encode {
        ($record:ident) => {
            $record {
                timestamp: runtime::now_ms(),
                timeout: 0,
                correlation_id: correlation_id.to_owned(),
                originator_replica_id: context.replica().to_string(),
                filter_id: group.clone(),
                application_name: application.to_owned(),
                filter_name: Some(filter_name.to_owned()),
            }
            .encode()
        };
    }
    let (event, payload) = match turn {
        Turn::Pending => (PENDING, encode!(EndpointFilterPendingEvent)),
        Turn::Activated => (ACTIVATED, encode!(EndpointFilterActivatedEvent)),
        Turn::Deleted => (DELETED, encode!(EndpointFilterDeletedEvent)),
    };
    publish(context, event, &group, payload).await;
}

async fn publish(context: &Context, event: GroupedEvent, filter_id: &str, payload: Bytes) -> bool {
    let sent = context.nats().publish(event.of(context.instance(), filter_id), payload).await;
    if let Err(error) = &sent {
        tracing::warn!(%error, filter_id, event = event.event_type, "an event of a filter could not be sent");
    }
    sent.is_ok()
}
