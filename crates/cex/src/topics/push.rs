//! Pushing commands to devices that listen at topics.

use std::sync::Arc;

use extension::{Delivery, Gateway, TopicPush};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use ids::{CorrelationId, EndpointId};
use tokio::time::Instant;

use super::registers::Registers;

/// A way to the clients that are endpoints.
#[derive(Clone)]
pub(crate) struct Things {
    registers: Registers,
    gateway: Arc<Gateway>,
}

impl Things {
    pub(crate) fn new(registers: Registers, gateway: Arc<Gateway>) -> Self {
        Self { registers, gateway }
    }

    /// Sends a command to the clients that are the endpoint, and to no other that listens at the topic: in a group each has
    /// commands of its own. Nothing is written after the deadline.
    pub(crate) async fn push(
        &self,
        endpoint_id: &EndpointId,
        push: TopicPush,
        correlation_id: &CorrelationId,
        deadline: Instant,
    ) -> Delivery {
        let credentials_ids = match self.registers.credentials_of(&push.tenant, endpoint_id).await {
            Ok(credentials_ids) => credentials_ids,
            Err(error) => {
                tracing::warn!(%error, %endpoint_id, "which clients are the endpoint cannot be looked up");
                return Delivery::Offline;
            }
        };
        // After the look: it takes time from the push.
        let timeout = deadline.saturating_duration_since(Instant::now());
        if timeout.is_zero() {
            return Delivery::Offline;
        }
        let send = |credentials_id| {
            let push = TopicPush { credentials_id: Some(credentials_id), ..push.clone() };
            self.gateway.send(push, correlation_id, timeout)
        };
        let mut sends: FuturesUnordered<_> = credentials_ids.into_iter().map(send).collect();
        let mut delivery = Delivery::Offline;
        while let Some(one) = sends.next().await {
            match one {
                Delivery::Delivered => return Delivery::Delivered,
                Delivery::Unknown => delivery = Delivery::Unknown,
                Delivery::Offline => {}
            }
        }
        delivery
    }
}
