//! A provider on real NATS: its bounds, deadlines and end.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use async_nats::Subscriber;
use futures::StreamExt as _;
use ids::{InstanceName, ReplicaId};
use ism::Record as _;
use ism::endpoints::{EndpointGetRequest, EndpointGetResponse, GET_REQUEST, GET_RESPONSE};
use provider::{Provider, serve};
use runtime::{Context, Service};
use serde::Deserialize;
use testbed::{PATIENCE, Testbed};
use testkit::eventually;
use tokio::sync::Semaphore;

const CONCURRENT_MAX: usize = 2;

#[derive(Deserialize)]
struct NoConfig {}

/// Declares a service whose handler waits for a permit before it answers, so that a test decides when.
macro_rules! held_service {
    ($service:ident, $name:literal, $permits:ident, $handlers:ident) => {
        static $permits: Semaphore = Semaphore::const_new(0);
        static $handlers: Handlers = Handlers { started: AtomicUsize::new(0), ended: AtomicUsize::new(0) };

        struct $service;

        impl Service for $service {
            const NAME: &'static str = $name;
            type Config = NoConfig;

            fn subjects() -> runtime::Subjects {
                runtime::Subjects::new().serves(GET_REQUEST).answers(GET_RESPONSE)
            }

            async fn start(_: NoConfig, context: Context) -> anyhow::Result<()> {
                let subject = GET_REQUEST.service(context.instance());
                let provider = Provider { subject, name: "held", concurrent_max: CONCURRENT_MAX };
                serve(&context, provider, async |request: EndpointGetRequest| {
                    let _running = $handlers.enter();
                    $permits.acquire().await.unwrap().forget();
                    EndpointGetResponse {
                        correlation_id: request.correlation_id,
                        status_code: 200,
                        ..EndpointGetResponse::default()
                    }
                })
                .await
            }
        }
    };
}

/// How many handlers have started and ended.
struct Handlers {
    started: AtomicUsize,
    ended: AtomicUsize,
}

impl Handlers {
    fn enter(&'static self) -> Running {
        self.started.fetch_add(1, Ordering::SeqCst);
        Running(self)
    }

    async fn until(&self, started: usize, ended: usize) {
        let look = async || {
            let now = (self.started.load(Ordering::SeqCst), self.ended.load(Ordering::SeqCst));
            (now == (started, ended)).then_some(())
        };
        eventually("the handlers to start and end", PATIENCE, look).await;
    }
}

/// Counts the end also when the handler is dropped.
struct Running(&'static Handlers);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::SeqCst);
    }
}

static SLOT: AtomicU64 = AtomicU64::new(1);

async fn send(bed: &Testbed, service: &str, correlation_id: &str, timeout_ms: i64) -> Subscriber {
    // As a service of the platform asks: the provider may answer only to subjects of that form.
    let replica = ReplicaId::parse("test-0").unwrap();
    let inbox = GET_RESPONSE.reply(&replica, SLOT.fetch_add(1, Ordering::Relaxed));
    let answers = bed.client.subscribe(inbox.clone()).await.unwrap();
    let request = EndpointGetRequest {
        correlation_id: correlation_id.to_owned(),
        timestamp: runtime::now_ms(),
        timeout: timeout_ms,
        ..EndpointGetRequest::default()
    };
    let subject = GET_REQUEST.service(&InstanceName::parse(service).unwrap());
    bed.client.publish_with_reply(subject, inbox, request.encode()).await.unwrap();
    answers
}

async fn answer(answers: &mut Subscriber) -> String {
    let message = tokio::time::timeout(PATIENCE, answers.next()).await.unwrap().unwrap();
    EndpointGetResponse::decode(&message.payload).unwrap().correlation_id
}

held_service!(Bounded, "bounded", BOUNDED_PERMITS, BOUNDED_HANDLERS);

#[tokio::test]
async fn no_more_run_at_once_than_allowed_and_all_are_answered() {
    let bed = Testbed::start(&[runtime::entry::<Bounded>()], &[]).await;
    let mut all = Vec::new();
    for number in 0..5 {
        all.push(send(&bed, "bounded", &number.to_string(), 0).await);
    }
    for (number, answers) in all.iter_mut().enumerate() {
        // The next is taken up when one has ended, not before.
        BOUNDED_HANDLERS.until((number + CONCURRENT_MAX).min(5), number).await;
        BOUNDED_PERMITS.add_permits(1);
        assert_eq!(answer(answers).await, number.to_string());
    }
    bed.stop().await;
}

held_service!(Late, "late", LATE_PERMITS, LATE_HANDLERS);

#[tokio::test]
async fn a_handler_is_dropped_at_the_deadline_and_makes_room() {
    let bed = Testbed::start(&[runtime::entry::<Late>()], &[]).await;
    let mut late = Vec::new();
    for _ in 0..CONCURRENT_MAX {
        late.push(send(&bed, "late", "late", 300).await);
    }
    let mut timely = send(&bed, "late", "timely", 20_000).await;
    LATE_HANDLERS.until(CONCURRENT_MAX + 1, CONCURRENT_MAX).await;
    LATE_PERMITS.add_permits(1);
    assert_eq!(answer(&mut timely).await, "timely");
    // Answers to the late ones would have come before that to the timely one.
    for answers in &mut late {
        assert!(futures::poll!(answers.next()).is_pending());
    }
    bed.stop().await;
}

held_service!(Stopping, "stopping", STOPPING_PERMITS, STOPPING_HANDLERS);

#[tokio::test]
async fn what_has_begun_is_finished_when_the_service_stops() {
    let bed = Testbed::start(&[runtime::entry::<Stopping>()], &[]).await;
    let mut begun = send(&bed, "stopping", "begun", 0).await;
    STOPPING_HANDLERS.until(1, 0).await;
    let ((), answered) = tokio::join!(bed.stop(), async {
        STOPPING_PERMITS.add_permits(1);
        answer(&mut begun).await
    });
    assert_eq!(answered, "begun");
}
