//! How the gateway learns of an extension: a key in the NATS bucket `extensions`, renewed while the extension runs.
//!
//! The key stays when the extension stops. So a device can be told apart "unknown extension" (404, no key) from "not
//! running now" (503, a key and no replica that answers).
//!
//! The gateway makes the bucket. An extension may only write its own key and look at what is there, and that only in the
//! form in which JetStream wraps it in JSON: whoever may ask for bytes of the bucket as they are could have JetStream send
//! what he has put there to any subject that he names as the reply, with any service's voice.

use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use async_nats::jetstream::{self, kv, stream};
use ism::esp::{CLIENT_DATA, DELIVERY_REPORT, EXTENSION_DATA};
use ism::subject::instance;
use runtime::{Context, Subjects};
use serde::{Deserialize, Serialize};

/// The bucket's name.
pub const BUCKET: &str = "extensions";
/// Longest value of a key in bytes, headers included.
const REGISTRATION_BYTES_MAX: i32 = 64 * 1_024;
const RENEW_EVERY: Duration = Duration::from_secs(30);
const RETRY_EVERY: Duration = Duration::from_millis(500);
/// Attempts in a row that may fail before it is worth a warning, and again after as many: at a first start the extension is
/// often quicker than the gateway.
const WARN_EVERY: u32 = 20;

/// What an extension instance says of itself; the value of its key, in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Registration {
    /// The instance name; also the key.
    pub name: String,
    /// The version of the extension.
    pub version: String,
    /// `esp` (4/ESP).
    pub protocol: String,
    /// Whether the paths hold an endpoint token.
    pub endpoint_aware: bool,
    /// The resource paths, such as `/plain/{metric}`.
    #[serde(default)]
    pub resource_paths: Vec<String>,
    /// Larger payloads are refused by the gateway with 413.
    #[serde(default)]
    pub max_payload_bytes: Option<usize>,
    /// Patterns of topics outside of 1/KP, such as `cmd/{thing}/req`.
    #[serde(default)]
    pub topics: Vec<String>,
}

/// What an extension needs on NATS: devices' messages, answers, pushes and its registration.
#[must_use]
pub fn subjects() -> Subjects {
    Subjects::new()
        .serves(CLIENT_DATA)
        // Not at RFC 4's own subjects: there everybody could answer and push as any extension.
        .answers_in_own_name(EXTENSION_DATA)
        .tells_in_own_name(EXTENSION_DATA)
        // Not all of the protocol: that would be what every other extension answers and pushes.
        .asks_in_own_name(instance::KPC, EXTENSION_DATA, DELIVERY_REPORT)
        // Nothing that answers with the bytes that the asker himself has put: see above.
        .publishes(format!("$JS.API.STREAM.MSG.GET.KV_{BUCKET}"))
        .publishes(key("<own>"))
}

/// Where the value of an extension's key is put.
fn key(name: &str) -> String {
    format!("$KV.{BUCKET}.{name}")
}

/// What one who follows the register of extensions needs on NATS.
#[must_use]
pub fn follower_subjects(own: Subjects) -> Subjects {
    own.publishes("$JS.API.INFO")
        .publishes(format!("$JS.API.STREAM.CREATE.KV_{BUCKET}"))
        .publishes(format!("$JS.API.STREAM.UPDATE.KV_{BUCKET}"))
        .publishes(format!("$JS.API.STREAM.INFO.KV_{BUCKET}"))
        .publishes(format!("$JS.API.STREAM.MSG.GET.KV_{BUCKET}"))
        .publishes(format!("$JS.API.DIRECT.GET.KV_{BUCKET}"))
        .publishes(format!("$JS.API.DIRECT.GET.KV_{BUCKET}.>"))
        .publishes(format!("$JS.API.CONSUMER.*.KV_{BUCKET}"))
        .publishes(format!("$JS.API.CONSUMER.*.KV_{BUCKET}.>"))
        .publishes(format!("$JS.API.CONSUMER.MSG.NEXT.KV_{BUCKET}.>"))
        .publishes(format!("$JS.ACK.KV_{BUCKET}.>"))
        .publishes(format!("$JS.FC.KV_{BUCKET}.>"))
}

/// Opens the bucket, and makes it first if need be: the gateway does. An extension that writes its own key must not be able
/// to take away the others' with a header (`Nats-Rollup`), which buckets usually allow.
pub async fn bucket(client: &async_nats::Client) -> anyhow::Result<kv::Store> {
    let jetstream = jetstream::new(client.clone());
    let store = match jetstream.get_key_value(BUCKET).await {
        Ok(store) => store,
        Err(_) => {
            jetstream.create_stream(bucket_config()).await?;
            jetstream.get_key_value(BUCKET).await?
        }
    };
    let found = &store.stream.cached_info().config;
    if found.allow_rollup {
        let ours = bucket_config();
        let (allow_rollup, max_message_size) = (ours.allow_rollup, ours.max_message_size);
        let config = stream::Config { allow_rollup, max_message_size, ..found.clone() };
        jetstream.update_stream(config).await.context("forbidding Nats-Rollup in the bucket")?;
    }
    Ok(store)
}

fn bucket_config() -> stream::Config {
    stream::Config {
        name: format!("KV_{BUCKET}"),
        subjects: vec![key(">")],
        max_messages_per_subject: 1,
        max_message_size: REGISTRATION_BYTES_MAX,
        discard: stream::DiscardPolicy::New,
        allow_direct: true,
        deny_delete: true,
        allow_rollup: false,
        num_replicas: 1,
        ..stream::Config::default()
    }
}

/// Writes the key now and again and again, so that it is back soon after NATS has lost its data.
pub(crate) async fn keep_registered(context: Context, registration: Registration) -> anyhow::Result<()> {
    let value = bytes::Bytes::from(serde_json::to_vec(&registration)?);
    let stopping = context.stopping();
    let mut failed = 0_u32;
    loop {
        let wait = match register(&context, &registration.name, value.clone()).await {
            Ok(()) => {
                failed = 0;
                RENEW_EVERY
            }
            Err(error) => {
                failed = failed.saturating_add(1);
                let (extension, error) = (&registration.name, format!("{error:#}"));
                if failed.is_multiple_of(WARN_EVERY) {
                    tracing::warn!(extension, error, "not registered yet; trying again");
                } else {
                    tracing::debug!(extension, error, "not registered yet; trying again");
                }
                RETRY_EVERY
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stopping.cancelled() => return Ok(()),
        }
    }
}

async fn register(context: &Context, name: &str, value: bytes::Bytes) -> anyhow::Result<()> {
    let jetstream = jetstream::new(context.nats().clone());
    let bucket = jetstream.get_stream_no_info(format!("KV_{BUCKET}")).await?;
    let known = match bucket.get_last_raw_message_by_subject(&key(name)).await {
        Ok(known) => Some(known.payload),
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => None,
        Err(error) => return Err(error).context("the gateway has not made the register of extensions yet"),
    };
    // Writing the same again would wake every gateway for nothing.
    if known.as_ref() != Some(&value) {
        jetstream.publish(key(name), value).await?.await?;
    }
    Ok(())
}
