//! Tells applications results on the topics where they await them.

use std::sync::Arc;
use std::time::Duration;

use extension::{Delivery, Gateway, TopicPush};
use ids::CorrelationId;
use opentelemetry::metrics::Counter;
use opentelemetry::{KeyValue, global};
use runtime::Context;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::publications::Publications;
use super::responses::{Response, Responses};
use crate::config::Config;

/// Topics on which results are told at the same time.
const TOPICS_AT_ONCE: usize = 512;
/// Results that are read at once, which may be large.
const READ_AT_ONCE: usize = 64;
/// The longest pause between two tries on a topic where nobody listens, unless somebody subscribes.
const NOBODY_PAUSE_MAX: Duration = Duration::from_secs(30);
/// What a lease has beyond the time to tell.
const LEASE_GRACE: Duration = Duration::from_secs(5);
/// Between two looks, so that one serves what comes in quick succession.
const GATHER: Duration = Duration::from_millis(5);
/// How often publications that are too old are forgotten.
const PURGE_EVERY: Duration = Duration::from_secs(60);
/// The pause after a failure of the database.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);

/// Tells results. Cheap to clone.
#[derive(Clone)]
pub(super) struct Teller {
    pub(super) context: Context,
    pub(super) config: Arc<Config>,
    pub(super) gateway: Arc<Gateway>,
    pub(super) responses: Responses,
    pub(super) publications: Publications,
    /// Told when there may be something to tell.
    pub(super) changed: Arc<Notify>,
    outcomes: Counter<u64>,
}

impl Teller {
    pub(super) fn new(
        context: Context,
        config: Arc<Config>,
        gateway: Arc<Gateway>,
        responses: Responses,
        publications: Publications,
    ) -> Self {
        let outcomes = global::meter("cex")
            .u64_counter("bandar_cex_responses")
            .with_description(
                "Results told to applications on topics, by outcome: delivered, offline, unknown, dropped",
            )
            .build();
        Self { context, config, gateway, responses, publications, changed: Arc::default(), outcomes }
    }

    pub(super) fn start(&self) {
        self.context.spawn("tell results on topics", self.clone().run());
        self.context.spawn("forget old publications and results", self.clone().purge());
    }

    async fn run(self) -> anyhow::Result<()> {
        let stopping = self.context.stopping();
        let places = Arc::new(Semaphore::new(TOPICS_AT_ONCE));
        while !stopping.is_cancelled() {
            let pause = match self.look(&places).await {
                Ok(()) => self.config.look_every(),
                Err(error) => {
                    tracing::warn!(%error, "results that are to be told cannot be read; trying again");
                    FAILURE_PAUSE
                }
            };
            // Whoever tells of a change while nobody waits is heard by the next wait.
            tokio::time::sleep(GATHER).await;
            tokio::select! {
                () = self.changed.notified() => {}
                () = tokio::time::sleep(pause) => {}
                () = stopping.cancelled() => {}
            }
        }
        Ok(())
    }

    /// Begins to tell what is due, on as many topics as there are places.
    async fn look(&self, places: &Arc<Semaphore>) -> sqlx::Result<()> {
        loop {
            let free = places.available_permits().min(READ_AT_ONCE);
            let free = i64::try_from(free).unwrap_or(i64::MAX);
            if free == 0 {
                return Ok(());
            }
            let due = self.responses.due(free, self.lease()).await?;
            if due.is_empty() {
                return Ok(());
            }
            for response in due {
                // Only this task takes places.
                let Ok(place) = places.clone().try_acquire_owned() else { return Ok(()) };
                self.context.task(self.clone().topic(response, place));
            }
        }
    }

    /// Tells a result, and then what is due behind it on its topic.
    async fn topic(self, first: Response, _place: OwnedSemaphorePermit) {
        let stopping = self.context.stopping();
        let mut next = Some(first);
        while let Some(response) = next.take() {
            let delivery = self.tell(&response).await;
            let settled = match delivery {
                Delivery::Delivered => {
                    self.responses.told(&response, self.lease()).await.map(|following| next = following)
                }
                Delivery::Offline => {
                    let pause = self.pause(response.attempts()).min(NOBODY_PAUSE_MAX);
                    self.responses.rest(&response, pause).await
                }
                Delivery::Unknown => {
                    self.responses.postpone(&response, self.pause(response.attempts())).await
                }
            };
            if let Err(error) = settled {
                // When the lease ends it is told again: QoS 1 allows for that.
                tracing::warn!(%error, "that a result was told cannot be written down");
                return;
            }
            if stopping.is_cancelled()
                && let Some(left) = next.take()
            {
                // Another replica goes on at once.
                let _ = self.responses.postpone(&left, Duration::ZERO).await;
            }
        }
        // There may be more than there were places for.
        self.changed.notify_one();
    }

    async fn tell(&self, response: &Response) -> Delivery {
        let id = format!("{}-{:x}", self.context.replica(), rand::random::<u64>());
        let Ok(correlation_id) = CorrelationId::parse(&id) else { return Delivery::Offline };
        let push = TopicPush {
            tenant: response.tenant_id.clone(),
            credentials_id: None,
            topic: response.topic.clone(),
            payload: response.payload(),
            correlation_data: response.correlation_data(),
            response_topic: None,
        };
        let delivery = self.gateway.send(push, &correlation_id, self.timeout()).await;
        let outcome = match delivery {
            Delivery::Delivered => "delivered",
            Delivery::Offline => "offline",
            Delivery::Unknown => "unknown",
        };
        self.outcomes.add(1, &[KeyValue::new("outcome", outcome)]);
        delivery
    }

    fn timeout(&self) -> Duration {
        Duration::from_millis(self.config.push_timeout_ms)
    }

    fn lease(&self) -> Duration {
        self.timeout() + LEASE_GRACE
    }

    /// Doubles with each attempt; 20 % more or less, so that not all come at once.
    fn pause(&self, attempts: u32) -> Duration {
        let (first, max) = (self.config.retry_pause_ms, self.config.retry_pause_max_ms);
        let doubled = first.saturating_mul(2_u64.saturating_pow(attempts.saturating_sub(1))).min(max);
        let fifth = doubled / 5;
        Duration::from_millis(rand::random_range(doubled - fifth..=doubled.saturating_add(fifth)))
    }

    async fn purge(self) -> anyhow::Result<()> {
        let stopping = self.context.stopping();
        loop {
            tokio::select! {
                () = tokio::time::sleep(PURGE_EVERY) => {}
                () = stopping.cancelled() => return Ok(()),
            }
            match self.responses.trim(self.config.responses_per_topic_max).await {
                Ok(dropped) => self.outcomes.add(dropped, &[KeyValue::new("outcome", "dropped")]),
                Err(error) => {
                    tracing::warn!(%error, "results that nobody fetches cannot be dropped; trying again later");
                }
            }
            loop {
                match self.publications.purge().await {
                    Ok(true) if !stopping.is_cancelled() => {}
                    Ok(_) => break,
                    Err(error) => {
                        tracing::warn!(%error, "old publications cannot be forgotten; trying again later");
                        break;
                    }
                }
            }
        }
    }
}
