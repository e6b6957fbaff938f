//! 13/DSTP: samples to their receivers, and the answers of those that must have stored them.

use bytes::Bytes;
use extension::{Endpoint, Message, Refusal};
use ids::InstanceName;
use ism::dstp::{self, DATA_SAMPLES_PROCESSED, DATA_SAMPLES_RECEIVED};
use ism::{DataSamplesEvent, DataSamplesProcessed, Record as _};
use runtime::{Context, now_ms};

/// Answers that are kept for one message; receivers that are not awaited answer too.
const ANSWERS_MAX: usize = 16;

pub(crate) struct Receivers {
    context: Context,
    subject: String,
}

impl Receivers {
    pub(crate) fn new(context: Context) -> Self {
        let subject = DATA_SAMPLES_RECEIVED.of(context.instance());
        Self { context, subject }
    }

    /// Broadcasts the samples and waits until every reliable receiver has answered well. The first one that refuses
    /// decides the status of the whole message.
    pub(crate) async fn deliver(
        &self,
        message: &Message,
        from: &Endpoint,
        samples: Vec<Bytes>,
        reliable: &[InstanceName],
    ) -> Result<(), Refusal> {
        let event = DataSamplesEvent {
            correlation_id: message.correlation_id.to_string(),
            timestamp: now_ms(),
            timeout: i64::try_from(message.remaining().as_millis()).unwrap_or(i64::MAX).max(1),
            app_version_name: from.app_version_name.to_string(),
            endpoint_id: from.id.to_string(),
            content_type: dstp::JSON.to_owned(),
            data_samples: samples,
        };
        let mut answers = self
            .context
            .requester()
            .exchange(
                self.subject.clone(),
                DATA_SAMPLES_PROCESSED,
                event.encode(),
                runtime::trace::headers(),
                ANSWERS_MAX,
            )
            .await?;
        let mut missing: Vec<&str> = reliable.iter().map(InstanceName::as_str).collect();
        missing.sort_unstable();
        missing.dedup();
        let is_only_one = missing.len() == 1;
        while !missing.is_empty() {
            let answer = answers.next(message.deadline).await.map_err(|error| match error {
                runtime::RequestError::Timeout => {
                    Refusal::timeout(format!("no answer in time from {}", missing.join(", ")))
                }
                _ => Refusal::unavailable(format!(
                    "no receiver of telemetry is running; {} awaited",
                    missing.join(", ")
                )),
            })?;
            let answer = DataSamplesProcessed::decode(&answer.payload)
                .map_err(|error| Refusal::new(500, format!("a receiver's answer cannot be read: {error}")))?;
            let Some(index) = missing.iter().position(|name| *name == answer.receiver_service_instance_name)
            else {
                continue;
            };
            if !(200..300).contains(&answer.status_code) {
                let reason = answer.reason_phrase.unwrap_or_else(|| "refused without a reason".to_owned());
                let status = match u16::try_from(answer.status_code).unwrap_or(500) {
                    // 503 means that nothing is stored anywhere, so that the gateway may repeat it; another receiver may
                    // well have stored it.
                    503 if !is_only_one => 504,
                    status => status,
                };
                return Err(Refusal::new(status, reason));
            }
            missing.swap_remove(index);
        }
        Ok(())
    }
}
