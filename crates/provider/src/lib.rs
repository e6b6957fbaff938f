//! Answers the requests that other services send to this one over NATS (3/ISM targeted messages).
//!
//! A provider is a function from a request record to a response record. Around it, [`serve`] shares the
//! subject with the other replicas, bounds how many requests run at once, drops what has expired, carries the
//! trace and the correlation id, counts, and finishes what it has begun when the service stops.

mod metrics;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::{Message, Subject};
use bytes::Bytes;
use ism::{Envelope, Record};
use runtime::Context;
use tokio::sync::Semaphore;
use tracing::Instrument as _;

use crate::metrics::{Metrics, Outcome};

/// How long a request without a deadline may take.
const UNBOUNDED_REQUEST_MAX: Duration = Duration::from_secs(10);

/// What a service answers, and within what bounds.
pub struct Provider {
    /// The subject of the requests.
    pub subject: String,
    /// The name of the task; says what is provided.
    pub name: &'static str,
    /// Requests that are worked on at once; more wait in the subscription until they expire.
    pub concurrent_max: usize,
}

/// Answers requests for as long as the service runs. Returns once the subscription is made.
///
/// The handler puts every failure into its response: a request that gets none looks as if no service were
/// there. It is dropped when the request's deadline passes, so it must leave nothing half-done where it can
/// wait.
///
/// # Errors
/// When NATS refuses the subscription.
pub async fn serve<Q, R, H, F>(context: &Context, provider: Provider, handler: H) -> anyhow::Result<()>
where
    Q: Record + Envelope + Send + 'static,
    R: Record + Send,
    H: Fn(Q) -> F + Send + Sync + 'static,
    F: Future<Output = R> + Send,
{
    let Provider { subject, name, concurrent_max } = provider;
    let mut requests = context.subscribe(subject, Some(context.instance().as_str())).await?;
    let permits = Arc::new(Semaphore::new(concurrent_max.clamp(1, Semaphore::MAX_PERMITS)));
    let worker = Arc::new(Worker {
        context: context.clone(),
        metrics: Metrics::new(context.name(), Q::NAME),
        handler,
    });
    context.spawn(name, {
        let context = context.clone();
        async move {
            while let Some(message) = requests.next().await {
                // The semaphore is never closed, so this waits for a permit and nothing else.
                let Ok(permit) = permits.clone().acquire_owned().await else { break };
                let worker = worker.clone();
                context.task(async move {
                    worker.answer::<Q, R, F>(message).await;
                    drop(permit);
                });
            }
            Ok(())
        }
    });
    Ok(())
}

struct Worker<H> {
    context: Context,
    metrics: Metrics,
    handler: H,
}

impl<H> Worker<H> {
    async fn answer<Q, R, F>(&self, message: Message)
    where
        Q: Record + Envelope,
        R: Record,
        H: Fn(Q) -> F,
        F: Future<Output = R>,
    {
        let began = Instant::now();
        let outcome = self.try_answer(message).await;
        self.metrics.finished(outcome, began.elapsed());
    }

    async fn try_answer<Q, R, F>(&self, message: Message) -> Outcome
    where
        Q: Record + Envelope,
        R: Record,
        H: Fn(Q) -> F,
        F: Future<Output = R>,
    {
        let Some(reply) = message.reply.clone() else {
            tracing::warn!(request = Q::NAME, "a request names no subject to reply to");
            return Outcome::Malformed;
        };
        let request = match Q::decode(&message.payload) {
            Ok(request) => request,
            Err(error) => {
                tracing::warn!(request = Q::NAME, %error, "a request could not be read");
                return Outcome::Malformed;
            }
        };
        let remaining = request.remaining(runtime::now_ms()).unwrap_or(UNBOUNDED_REQUEST_MAX);
        if remaining.is_zero() {
            return Outcome::Expired;
        }
        let span =
            tracing::info_span!("provide", request = Q::NAME, correlation_id = request.correlation_id());
        runtime::trace::adopt(&span, message.headers.as_ref());
        async {
            match tokio::time::timeout(remaining, (self.handler)(request)).await {
                Ok(response) => self.send(reply, response.encode()).await,
                Err(_) => {
                    tracing::warn!("the deadline of a request passed before it was answered");
                    Outcome::Expired
                }
            }
        }
        .instrument(span)
        .await
    }

    async fn send(&self, reply: Subject, response: Bytes) -> Outcome {
        match self.context.nats().publish(reply, response).await {
            Ok(()) => Outcome::Answered,
            Err(error) => {
                tracing::warn!(%error, "a response could not be sent");
                Outcome::Unsent
            }
        }
    }
}
