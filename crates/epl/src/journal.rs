//! Where connectivity events wait in NATS until they are taken in.
//!
//! A JetStream stream keeps what gateways tell, so that nothing is lost while the service restarts. It costs the gateways
//! nothing: they publish as ever. Replicas of the service share one consumer; what is not acknowledged comes again.

use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::stream::{self, DiscardPolicy};
use ism::elce::{CONNECTED, CONNECTED_HERE_TOO, DISCONNECTED};
use ism::subject::instance;
use runtime::{Context, Subjects};

use crate::config::Config;

/// The stream's name.
const STREAM: &str = "connectivity";
/// What is not acknowledged after this time comes again, maybe to another replica.
const ACK_WAIT: Duration = Duration::from_secs(15);
/// Events that are on their way to one replica.
const AHEAD_MAX: usize = 256;
/// How long one request for more events waits on the server.
const PULL_EXPIRES: Duration = Duration::from_secs(20);

/// What the journal needs on NATS.
pub(crate) fn subjects(own: Subjects) -> Subjects {
    ["INFO", "CREATE", "UPDATE"]
        .into_iter()
        .fold(own, |own, verb| own.publishes(format!("$JS.API.STREAM.{verb}.{STREAM}")))
        .publishes(format!("$JS.API.CONSUMER.INFO.{STREAM}.<own>"))
        .publishes(format!("$JS.API.CONSUMER.CREATE.{STREAM}.<own>"))
        .publishes(format!("$JS.API.CONSUMER.MSG.NEXT.{STREAM}.<own>"))
        .publishes(format!("$JS.ACK.{STREAM}.<own>.>"))
}

/// Makes the stream and the consumer, if need be, and follows them from the first event that is not taken in.
pub(crate) async fn open(context: &Context, config: &Config) -> anyhow::Result<pull::Stream> {
    let jetstream = jetstream::new(context.nats().clone());
    let wanted = stream::Config {
        name: STREAM.to_owned(),
        description: Some("Endpoints that connect and disconnect, until epl has noted it".to_owned()),
        subjects: vec![
            CONNECTED.of_any(),
            DISCONNECTED.of_any(),
            // What a gateway replica tells the others when it is back after a loss of NATS.
            CONNECTED_HERE_TOO.at(instance::KPC),
        ],
        discard: DiscardPolicy::Old,
        max_age: Duration::from_millis(config.events_kept_ms),
        max_bytes: i64::from(config.events_kept_bytes),
        ..stream::Config::default()
    };
    let stream = jetstream.get_or_create_stream(wanted.clone()).await;
    let stream = stream.with_context(|| format!("making the JetStream stream {STREAM}"))?;
    let known = &stream.cached_info().config;
    let is_outdated = known.max_age != wanted.max_age
        || known.max_bytes != wanted.max_bytes
        || known.subjects.iter().any(|subject| !wanted.subjects.contains(subject))
        || known.subjects.len() != wanted.subjects.len();
    if is_outdated {
        // Whatever else an operator has set, such as replicas, stays.
        let stream::Config { subjects, max_age, max_bytes, .. } = wanted;
        let wanted = stream::Config { subjects, max_age, max_bytes, ..known.clone() };
        jetstream.update_stream(wanted).await.with_context(|| format!("changing the stream {STREAM}"))?;
    }
    let name = context.instance().to_string();
    let wanted = pull::Config {
        durable_name: Some(name.clone()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        ..pull::Config::default()
    };
    let consumer: PullConsumer =
        stream.get_or_create_consumer(&name, wanted).await.context("making the consumer")?;
    let messages = consumer.stream().max_messages_per_batch(AHEAD_MAX).expires(PULL_EXPIRES);
    messages.heartbeat(PULL_EXPIRES / 4).messages().await.context("following the consumer")
}
