//! Requests find their answers, and their lack of one.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use ids::InstanceName;
use ism::subject::Message;
use ism::{EndpointGetRequest, Record as _};
use runtime::{Context, Platform, RequestError, Service, entry};
use testbed::Responder;
use tokio::time::Instant;

use crate::platform::settings;

const ANSWER: Message = Message { protocol: "test", message_type: "answer" };

struct Asker;

#[derive(serde::Deserialize)]
struct NoConfig {}

impl Service for Asker {
    const NAME: &'static str = "asker";
    type Config = NoConfig;

    fn subjects() -> runtime::Subjects {
        runtime::Subjects::new().receives("test").reads_configuration()
    }

    async fn start(_config: NoConfig, _context: Context) -> anyhow::Result<()> {
        Ok(())
    }
}

pub(crate) async fn start() -> (testkit::Nats, Platform, Context) {
    let nats = testkit::nats().await;
    let mut platform =
        Platform::start(&settings(&nats, &[]), &[entry::<Asker>()], &["asker"], None).await.unwrap();
    platform.ready().await.unwrap();
    let context = platform.services()[0].clone();
    (nats, platform, context)
}

/// Any record will do.
fn request(number: u32) -> EndpointGetRequest {
    EndpointGetRequest {
        correlation_id: number.to_string(),
        timestamp: 0,
        timeout: 0,
        tenant_id: "acme".to_owned(),
        endpoint_id: "endpoint-1".to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_find_their_requests() {
    let (nats, _platform, context) = start().await;
    let client = nats.client().await;
    let _echo =
        Responder::start(&client, "echo".to_owned(), |request: EndpointGetRequest| Some(request)).await;
    let ask = |number: u32| {
        let requester = context.requester().clone();
        async move {
            let payload = request(number).encode();
            let answer = requester
                .request("echo".into(), ANSWER, payload.clone(), None, Duration::from_secs(10))
                .await;
            assert_eq!(answer.unwrap().payload, payload);
        }
    };
    futures::future::join_all((0..500).map(ask)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_service_is_told_at_once_and_silence_in_time() {
    let (nats, _platform, context) = start().await;
    let ask = |subject: &str, timeout: Duration| {
        context.requester().request(subject.to_owned(), ANSWER, request(1).encode(), None, timeout)
    };
    let started = Instant::now();
    assert_eq!(ask("nobody", Duration::from_secs(30)).await.unwrap_err(), RequestError::NoResponders);
    assert!(started.elapsed() < Duration::from_secs(10));

    let silent = |_: EndpointGetRequest| None::<EndpointGetRequest>;
    let _silent = Responder::start(&nats.client().await, "silent".to_owned(), silent).await;
    assert_eq!(ask("silent", Duration::from_millis(50)).await.unwrap_err(), RequestError::Timeout);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_answers_nothing_is_unmatched() {
    let (nats, _platform, context) = start().await;
    let mut unmatched = context.requester().unmatched();
    let client = nats.client().await;
    client.publish(ANSWER.replica(context.replica()), Bytes::from_static(b"push")).await.unwrap();
    client.publish(ANSWER.reply(context.replica(), 999), Bytes::from_static(b"late")).await.unwrap();
    let received =
        async { (unmatched.next().await.unwrap().payload, unmatched.next().await.unwrap().payload) };
    let (push, late) = tokio::time::timeout(Duration::from_secs(10), received).await.unwrap();
    assert_eq!((&push[..], &late[..]), (&b"push"[..], &b"late"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_asked_by_name_alone_answers() {
    let (nats, _platform, context) = start().await;
    let client = nats.client().await;
    let mut requests = client.subscribe("asked").await.unwrap();
    client.flush().await.unwrap();
    let (echo, other) = (InstanceName::parse("echo").unwrap(), InstanceName::parse("other").unwrap());
    let (requester, payload, asked) = (context.requester(), request(1).encode(), "asked".to_owned());
    let mut answers = requester.exchange_with(&echo, asked, ANSWER, payload, None).await.unwrap();
    let reply = requests.next().await.unwrap().reply.unwrap();
    let parsed = ism::subject::parse_reply(&reply).unwrap();
    assert_eq!(parsed.sender, Some("echo"));
    for forged in [
        ANSWER.by(&other).reply(context.replica(), parsed.slot),
        ANSWER.reply(context.replica(), parsed.slot),
    ] {
        client.publish(forged, Bytes::from_static(b"forged")).await.unwrap();
    }
    client.publish(reply, Bytes::from_static(b"true")).await.unwrap();
    let answer = answers.next(Instant::now() + Duration::from_secs(10)).await.unwrap();
    assert_eq!(answer.payload, "true");
    // That nobody listens is told by the server, at the same subject.
    let (nobody, payload) = ("nobody".to_owned(), request(2).encode());
    let mut answers = requester.exchange_with(&echo, nobody, ANSWER, payload, None).await.unwrap();
    let answer = answers.next(Instant::now() + Duration::from_secs(10)).await;
    assert_eq!(answer.unwrap_err(), RequestError::NoResponders);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_answers_in_another_protocol_or_finds_a_number_by_counting() {
    let (nats, _platform, context) = start().await;
    let client = nats.client().await;
    let mut requests = client.subscribe("asked").await.unwrap();
    client.flush().await.unwrap();
    let asking = {
        let requester = context.requester().clone();
        let payload = request(1).encode();
        tokio::spawn(async move {
            requester.request("asked".into(), ANSWER, payload, None, Duration::from_secs(10)).await
        })
    };
    let reply = requests.next().await.unwrap().reply.unwrap();
    let slot = ism::subject::parse_reply(&reply).unwrap().slot;
    let other = Message { protocol: "runtime", message_type: "answer" };
    client.publish(other.reply(context.replica(), slot), Bytes::from_static(b"forged")).await.unwrap();
    for guess in
        (1..100).chain(slot.saturating_sub(100)..slot).chain(slot.saturating_add(1)..slot.saturating_add(100))
    {
        client.publish(ANSWER.reply(context.replica(), guess), Bytes::from_static(b"forged")).await.unwrap();
    }
    client.publish(reply, Bytes::from_static(b"true")).await.unwrap();
    assert_eq!(asking.await.unwrap().unwrap().payload, "true");
    assert!(slot > 1_000_000, "{slot}");
}
