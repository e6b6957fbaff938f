//! Pushing to a device.
//!
//! An idle endpoint costs nothing: the extension remembers, bounded, which gateway replica last spoke for an endpoint and
//! pushes there. When it does not know, or that replica does not hold the endpoint any more, the push goes to the
//! subject that every replica hears and only the holder answers (4/ESP).

use std::time::Duration;

use bytes::Bytes;
use ids::{AppVersionName, CorrelationId, EndpointId, ReplicaId};
use ism::esp::{DELIVERY_REPORT, EXTENSION_DATA};
use ism::subject::instance;
use ism::{DeliveryReport, ExtensionData, Record as _};
use quick_cache::sync::Cache;
use runtime::{Context, RequestError, now_ms};
use tokio::time::Instant;

/// Endpoints whose gateway replica is remembered.
const REMEMBERED_MAX: usize = 200_000;
/// A replica that is there answers sooner; one that has died does not answer at all.
const REPLICA_PATIENCE: Duration = Duration::from_secs(2);

/// What became of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// The device has it: it acknowledged (QoS 1), or it was written to its connection (QoS 0).
    Delivered,
    /// No gateway replica holds the endpoint, or the device did not acknowledge in time.
    Offline,
}

/// A way to the devices of an extension instance.
pub struct Gateway {
    context: Context,
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

    /// Pushes a payload to the endpoint's `<resource path>/status` and waits for the report of its delivery.
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
        let data = ExtensionData {
            correlation_id: correlation_id.to_string(),
            timestamp: now_ms(),
            timeout: i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX),
            app_version_name: app_version_name.map(ToString::to_string),
            extension_instance_name: Some(self.context.instance().to_string()),
            endpoint_id: Some(endpoint_id.to_string()),
            resource_path: resource_path.to_owned(),
            request_id: None,
            payload: Some(payload),
            status_code: 200,
            reason_phrase: None,
        };
        let data = data.encode();
        if let Some(replica) = self.replicas.get(endpoint_id) {
            let subject = EXTENSION_DATA.replica(&replica);
            let patience = REPLICA_PATIENCE.min(timeout);
            if self.ask(subject, data.clone(), patience).await == Ok(200) {
                return Delivery::Delivered;
            }
            self.replicas.remove(endpoint_id);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let subject = EXTENSION_DATA.at(instance::KPC);
        if self.ask(subject, data, left).await == Ok(200) { Delivery::Delivered } else { Delivery::Offline }
    }

    async fn ask(&self, subject: String, data: Bytes, timeout: Duration) -> Result<i32, RequestError> {
        let requester = self.context.requester();
        let answer = requester.request(subject, DELIVERY_REPORT, data, None, timeout).await?;
        Ok(DeliveryReport::decode(&answer.payload).map_or(0, |report| report.status_code))
    }
}
