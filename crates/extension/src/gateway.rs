//! Pushing to a device.
//!
//! An idle endpoint costs nothing: the extension remembers, bounded, which gateway replica last spoke for an endpoint and
//! pushes there. When it does not know, or that replica does not hold the endpoint any more, the push goes to the
//! subject that every replica hears and only the holder answers (4/ESP). Both subjects hold the extension's name.
//!
//! A replica that holds the endpoint says so at once (status 102), so that a device that takes its time is told apart from a
//! replica that has died: to the former nothing is pushed a second time.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use ids::{AppVersionName, CorrelationId, EndpointId, ReplicaId};
use ism::esp::{DELIVERY_REPORT, EXTENSION_DATA};
use ism::subject::instance;
use ism::{DeliveryReport, ExtensionData, Record as _};
use quick_cache::sync::Cache;
use runtime::{Context, now_ms};
use tokio::time::Instant;

use crate::reports::{self, Asked, Heard};

/// Endpoints whose gateway replica is remembered.
const REMEMBERED_MAX: usize = 200_000;
/// A replica that is there says sooner that it took the push; one that has died does not answer at all.
const REPLICA_PATIENCE: Duration = Duration::from_secs(2);
/// How long the NATS server may take to show that it is there.
const HEARING_PATIENCE: Duration = Duration::from_millis(500);
/// Reports on one push: an endpoint is connected to few replicas.
const REPORTS_MAX: usize = 8;

/// What became of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// The device has it: it acknowledged (QoS 1), or it was written to its connection (QoS 0).
    Delivered,
    /// No gateway replica holds the endpoint, or nothing was written to the device in time; and nothing will be.
    Offline,
    /// A gateway replica took it, but the device did not acknowledge it in time, or it disconnected before that; or NATS was away, so
    /// that nobody knows: the device may have it.
    Unknown,
}

/// A way to the devices of an extension instance.
pub struct Gateway {
    pub(crate) context: Context,
    replicas: Cache<EndpointId, ReplicaId>,
}

impl Gateway {
    /// A way to the devices for one service.
    #[must_use]
    pub fn new(context: Context) -> Self {
        Self { context, replicas: Cache::new(REMEMBERED_MAX) }
    }

    /// Notes which replica spoke for an endpoint.
    pub(crate) fn remember(&self, endpoint_id: &EndpointId, replica: &ReplicaId) {
        if self.replicas.get(endpoint_id).as_ref() != Some(replica) {
            self.replicas.insert(endpoint_id.clone(), replica.clone());
        }
    }

    /// Pushes a payload to the endpoint's `<resource path>/status` and waits for the report of its delivery. Nothing is written to
    /// the device after `timeout`; the report is waited for half a second longer.
    pub async fn push(
        &self,
        endpoint_id: &EndpointId,
        app_version_name: Option<&AppVersionName>,
        resource_path: &str,
        payload: Bytes,
        correlation_id: &CorrelationId,
        timeout: Duration,
    ) -> Delivery {
        let deadline = Instant::now() + timeout;
        let is_written_out = resource_path.is_empty() || resource_path.starts_with('/');
        let data = ExtensionData {
            correlation_id: correlation_id.to_string(),
            timestamp: now_ms(),
            timeout: i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX).max(1),
            app_version_name: app_version_name.map(ToString::to_string),
            extension_instance_name: Some(self.context.instance().to_string()),
            endpoint_id: Some(endpoint_id.to_string()),
            resource_path: if is_written_out {
                resource_path.to_owned()
            } else {
                format!("/{resource_path}")
            },
            request_id: None,
            payload: Some(payload),
            status_code: 200,
            reason_phrase: None,
        };
        let (data, in_own_name) = (data.encode(), EXTENSION_DATA.by(self.context.instance()));
        let hearing = self.hearing();
        let mut otherwise = Delivery::Offline;
        if let Some(replica) = self.replicas.get(endpoint_id) {
            let patience = deadline.min(Instant::now() + REPLICA_PATIENCE);
            match self
                .ask(Asked::OneReplica, in_own_name.replica(&replica), data.clone(), patience, deadline)
                .await
            {
                Heard::Delivered => return Delivery::Delivered,
                Heard::Unknown => return Delivery::Unknown,
                Heard::NotThere => {}
                // It may have died, or may be so slow that the device gets the push all the same.
                Heard::Silence => otherwise = Delivery::Unknown,
            }
            // Unless a message has come through another one since.
            self.replicas.remove_if(endpoint_id, |known| *known == replica);
            if Instant::now() >= deadline {
                return otherwise;
            }
        }
        match self.ask(Asked::AllReplicas, in_own_name.at(instance::KPC), data, deadline, deadline).await {
            Heard::Delivered => Delivery::Delivered,
            Heard::Unknown => Delivery::Unknown,
            // Of all replicas only those speak that hold the endpoint.
            Heard::NotThere | Heard::Silence if self.has_heard_all(hearing).await => otherwise,
            Heard::NotThere | Heard::Silence => Delivery::Unknown,
        }
    }

    /// How often this process has connected to NATS.
    pub(crate) fn hearing(&self) -> u64 {
        self.context.nats().statistics().connects.load(Ordering::Acquire)
    }

    /// Whether all that the NATS server had for this process since then has come: only then does silence mean that nobody spoke.
    pub(crate) async fn has_heard_all(&self, since: u64) -> bool {
        self.context.published(HEARING_PATIENCE).await.is_ok() && self.hearing() == since
    }

    /// Sends a push to one subject. `patience` ends the waiting for anybody who takes it, `deadline` that for the device.
    async fn ask(
        &self,
        asked: Asked,
        subject: String,
        data: Bytes,
        patience: Instant,
        deadline: Instant,
    ) -> Heard {
        let requester = self.context.requester();
        let sending = requester.exchange(subject, DELIVERY_REPORT, data, None, REPORTS_MAX);
        match tokio::time::timeout_at(patience, sending).await {
            Ok(Ok(mut replies)) => reports::hear(&mut replies, asked, patience, deadline, status).await,
            // Nothing has left.
            _ => Heard::NotThere,
        }
    }
}

fn status(report: &Bytes) -> i32 {
    match DeliveryReport::decode(report) {
        Ok(report) => report.status_code,
        Err(error) => {
            tracing::warn!(%error, "a report of the delivery of a push cannot be read");
            0
        }
    }
}
