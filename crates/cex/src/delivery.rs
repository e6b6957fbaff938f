//! Pushing commands to devices.
//!
//! What is pushed was claimed before: the ledger has committed that an attempt may deliver it until a certain moment. So
//! whatever happens here, also that this process is killed, no command leaves that the ledger does not know of. A claim
//! that is not settled ends with its lease, and the lane is claimed anew.

mod metrics;
pub(crate) mod payload;

use std::sync::Arc;
use std::time::Duration;

use async_nats::connection::State;
use extension::{Delivery, Gateway, TopicPush};
use ids::CorrelationId;
use runtime::Context;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::config::Config;
use crate::ledger::{Claim, Ledger, Pushed};
use crate::topics::Things;

use metrics::Metrics;

/// Lanes that are claimed with one look.
const LANES_MAX: usize = 256;
/// Of so many pushes one is kept free for what was just invoked. A push to a device that is not there lasts until its timeout,
/// and those that are repeated to a fleet that is away must not hold up one that is there.
const KEPT_FREE: usize = 4;
/// Claims of what was just invoked that may be held, for each push that may be under way; most of them wait for their turn.
const CLAIMS_PER_PUSH: usize = 3;
/// How often the end of a push is told to a ledger that fails; after that the lease ends the claim.
const SETTLE_ATTEMPTS: u32 = 6;
/// The pause after the first of these; doubles.
const SETTLE_PAUSE: Duration = Duration::from_millis(100);
/// While as much is pushed as may be, it is looked for more at most so often.
const GATHER_FREE: Duration = Duration::from_millis(20);
/// The longest pause between two looks while the ledger fails.
const LOOK_PAUSE_MAX: Duration = Duration::from_secs(5);

/// Pushes what was claimed, and looks for what is due. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Dispatcher {
    shared: Arc<Shared>,
}

struct Shared {
    context: Context,
    config: Arc<Config>,
    ledger: Ledger,
    gateway: Arc<Gateway>,
    things: Things,
    /// One for each push that is under way.
    pushes: Arc<Semaphore>,
    /// One for each push that was found by looking.
    found: Arc<Semaphore>,
    /// One for each claim of what was just invoked.
    invoked: Arc<Semaphore>,
    look: Notify,
    metrics: Metrics,
}

impl Dispatcher {
    /// Begins to look for what is due.
    pub(crate) fn start(
        context: &Context,
        config: Arc<Config>,
        ledger: Ledger,
        gateway: Arc<Gateway>,
        things: Things,
    ) -> Self {
        let pushes_max = config.pushes_in_flight_max.clamp(1, Semaphore::MAX_PERMITS / CLAIMS_PER_PUSH);
        let shared = Shared {
            context: context.clone(),
            config,
            ledger,
            gateway,
            things,
            pushes: Arc::new(Semaphore::new(pushes_max)),
            found: Arc::new(Semaphore::new((pushes_max - pushes_max / KEPT_FREE).max(1))),
            invoked: Arc::new(Semaphore::new(pushes_max * CLAIMS_PER_PUSH)),
            look: Notify::new(),
            metrics: Metrics::new(),
        };
        let dispatcher = Self { shared: Arc::new(shared) };
        context.spawn("push commands", dispatcher.clone().run());
        dispatcher
    }

    /// Pushes a claim, in a task of its own, and what else becomes due in its lane meanwhile.
    pub(crate) fn push(&self, claim: Claim) {
        let shared = self.shared.clone();
        let Ok(permit) = shared.invoked.clone().try_acquire_owned() else {
            shared.metrics.given_back();
            tracing::warn!("too many pushes wait (cex.pushes_in_flight_max); this one waits in the ledger");
            return self.shared.context.task(async move { shared.give_back(claim).await });
        };
        self.begin(claim, permit);
    }

    fn begin(&self, claim: Claim, permit: OwnedSemaphorePermit) {
        let shared = self.shared.clone();
        self.shared.context.task(Box::pin(async move { shared.carry(claim, permit).await }));
    }

    /// Looks for what is due now.
    pub(crate) fn look(&self) {
        self.shared.look.notify_one();
    }

    async fn run(self) -> anyhow::Result<()> {
        let shared = &self.shared;
        let stopping = shared.context.stopping();
        let due = shared.ledger.work();
        let mut pause = shared.config.look_every();
        while !stopping.is_cancelled() {
            let has_failed = match self.claim_due().await {
                Ok(true) => continue,
                Ok(false) => false,
                Err(error) => {
                    tracing::warn!(%error, "commands that are due cannot be looked for; trying again");
                    true
                }
            };
            pause = if has_failed { (pause * 2).min(LOOK_PAUSE_MAX) } else { shared.config.look_every() };
            let told = async {
                if has_failed {
                    return std::future::pending().await;
                }
                tokio::select! {
                    () = shared.look.notified() => {}
                    () = due.notified() => {}
                }
            };
            tokio::select! {
                () = told => {}
                () = tokio::time::sleep(pause) => {}
                () = stopping.cancelled() => {}
            }
        }
        Ok(())
    }

    /// Claims and pushes what is due; whether there may be more.
    async fn claim_due(&self) -> sqlx::Result<bool> {
        let shared = &self.shared;
        // A push that cannot leave would only make the next one later.
        if shared.context.nats().connection_state() != State::Connected {
            return Ok(false);
        }
        // What is claimed is to be pushed at once: so no more than can be.
        let stopping = shared.context.stopping();
        let Some(Some(permit)) = stopping.run_until_cancelled(shared.free_push()).await else {
            return Ok(false);
        };
        let lanes_max = (shared.found.available_permits() + 1).min(LANES_MAX);
        let claims = shared.ledger.due(u32::try_from(lanes_max).unwrap_or(u32::MAX)).await?;
        let may_be_more = !claims.is_empty();
        let mut permits = std::iter::once(permit)
            .chain(std::iter::from_fn(|| shared.found.clone().try_acquire_owned().ok()));
        for claim in claims {
            // Only this task takes permits, so there is one for each.
            let Some(permit) = permits.next() else { break };
            self.begin(claim, permit);
        }
        Ok(may_be_more)
    }
}

impl Shared {
    /// Waits until a push that was found by looking can begin.
    async fn free_push(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = self.found.clone().try_acquire_owned() {
            return Some(permit);
        }
        let permit = self.found.clone().acquire_owned().await.ok()?;
        // Others end soon after it: one look serves them all.
        tokio::time::sleep(GATHER_FREE).await;
        Some(permit)
    }

    /// Pushes a claim, and those that the ledger gives for it.
    async fn carry(&self, claim: Claim, _held: OwnedSemaphorePermit) {
        let permit = tokio::time::timeout_at(claim.deadline, self.pushes.acquire()).await;
        let Ok(Ok(_permit)) = permit else {
            self.metrics.given_back();
            tracing::warn!(
                "a push did not get its turn in time (cex.pushes_in_flight_max); it waits in the ledger"
            );
            return self.give_back(claim).await;
        };
        let mut next = Some(claim);
        while let Some(claim) = next {
            let pushed = self.push(&claim).await;
            self.metrics.pushed(pushed, claim.commands.len());
            next = self.settle(claim, pushed).await;
            if self.context.stopping().is_cancelled() {
                // For whoever goes on with the service.
                return if let Some(claim) = next {
                    self.give_back(claim).await
                };
            }
        }
    }

    async fn push(&self, claim: &Claim) -> Pushed {
        let timeout = claim.deadline.saturating_duration_since(Instant::now());
        let correlation_id = correlation_id();
        let delivery = match &claim.topic {
            None => {
                let endpoint = &claim.lane.endpoint_id;
                let path = format!("/command/{}", claim.lane.command_type);
                let payload = payload::of_push(&claim.commands);
                self.gateway.push(endpoint, None, &path, payload, &correlation_id, timeout).await
            }
            Some(topic) => {
                let Some(command) = claim.commands.first() else { return Pushed::Offline };
                let push = TopicPush {
                    tenant: claim.lane.tenant.clone(),
                    credentials_id: None,
                    topic: topic.clone(),
                    payload: command
                        .payload
                        .as_ref()
                        .map(|payload| payload.bytes().clone())
                        .unwrap_or_default(),
                    correlation_data: Some(command.command_id.to_string().into()),
                    response_topic: response_topic(topic),
                };
                self.things.push(&claim.lane.endpoint_id, push, &correlation_id, claim.deadline).await
            }
        };
        tracing::debug!(
            %correlation_id,
            endpoint_id = %claim.lane.endpoint_id,
            command_type = %claim.lane.command_type,
            commands = claim.commands.len(),
            ?delivery,
            "commands were pushed"
        );
        match delivery {
            Delivery::Delivered => Pushed::Delivered,
            Delivery::Offline => Pushed::Offline,
            Delivery::Unknown => Pushed::Unknown,
        }
    }

    /// Tells the ledger how a push ended; to tell it again changes nothing.
    async fn settle(&self, claim: Claim, pushed: Pushed) -> Option<Claim> {
        let mut pause = SETTLE_PAUSE;
        for attempt in 1..=SETTLE_ATTEMPTS {
            match self.ledger.settle(claim.clone(), pushed).await {
                Ok(next) => return next,
                Err(error) => {
                    tracing::warn!(%error, attempt, "the end of a push could not be written down");
                }
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        None
    }

    /// Should that fail: the lease's end does the same.
    async fn give_back(&self, claim: Claim) {
        if let Err(error) = self.ledger.give_back(claim).await {
            tracing::warn!(%error, "commands that were not pushed could not be given back; their lease ends later");
        }
    }
}

/// A new id for messages that begin here.
#[expect(clippy::expect_used, reason = "32 hexadecimal digits are always a correlation id")]
pub(crate) fn correlation_id() -> CorrelationId {
    let text = uuid::Uuid::now_v7().simple().to_string();
    CorrelationId::parse(&text).expect("32 hexadecimal digits")
}

/// The topic where the answers to what is sent to a topic outside of 1/KP belong.
fn response_topic(topic: &str) -> Option<String> {
    if let Some(thing) = topic.strip_prefix("cmd/").and_then(|rest| rest.strip_suffix("/req")) {
        return Some(format!("cmd/{thing}/resp"));
    }
    topic.strip_suffix("/request").map(|group| format!("{group}/response"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_belong_to_the_topic_beside_the_request() {
        assert_eq!(response_topic("cmd/device1/req").as_deref(), Some("cmd/device1/resp"));
        assert_eq!(response_topic("floor-2/request").as_deref(), Some("floor-2/response"));
        assert_eq!(response_topic("cmd/device1/resp"), None);
    }
}
