//! The one way in for data, whether it comes over 13/DSTP, 14/TSTP or REST: limits, the books, the queue.

use std::sync::Arc;

use async_nats::Subject;
use bytes::Bytes;
use ids::EndpointId;
use ism::dstp::JSON;
use runtime::Version;
use tracing::Span;

use crate::books::{Book, Books};
use crate::clock::Clock;
use crate::config::Config;
use crate::extraction::{Extracted, Limits};
use crate::metrics::Metrics;
use crate::point::Micros;
use crate::settings::EptsSettings;
use crate::timestamp::Bounds;
use crate::work::{AnswerTo, Outcome, Protocol, Work};
use crate::writer::{Queue, QueueFull};

/// Takes messages, makes points of them and puts them into the queue. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Intake {
    pub(crate) queue: Queue,
    pub(crate) books: Arc<Books>,
    pub(crate) clock: Arc<Clock>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) config: Arc<Config>,
}

/// A message whose application is known.
pub(crate) struct Incoming {
    pub(crate) version: Arc<Version<EptsSettings>>,
    pub(crate) endpoint_id: EndpointId,
    pub(crate) correlation_id: String,
    pub(crate) deadline_ms: Option<i64>,
    pub(crate) payload_bytes: usize,
    pub(crate) span: Span,
    pub(crate) answer_to: AnswerTo,
}

/// A message that went no further, and who is to be told.
pub(crate) struct Declined {
    pub(crate) answer_to: AnswerTo,
    pub(crate) correlation_id: String,
    pub(crate) outcome: Outcome,
}

impl Declined {
    /// The reply subject of a transmitter that wants an answer.
    pub(crate) fn reply(&self) -> Option<(Protocol, Subject)> {
        match &self.answer_to {
            AnswerTo::Transmitter(protocol, reply) => Some((*protocol, reply.clone()?)),
            AnswerTo::Caller(_) => None,
        }
    }
}

impl Intake {
    pub(crate) fn limits(&self) -> Limits {
        let config = &self.config;
        Limits {
            bounds: Bounds::new(Micros::now(), config.retention_days, config.future_max_ms),
            points_max: usize::try_from(config.points_per_message_max).unwrap_or(usize::MAX),
        }
    }

    /// Extracts the points of a device's samples and queues them.
    pub(crate) fn take_samples(
        &self,
        incoming: Incoming,
        content_type: &str,
        samples: &[Bytes],
    ) -> Result<(), Declined> {
        let version = incoming.version.clone();
        self.take(incoming, || {
            if !is_json(content_type) {
                let message = format!("samples must be of type {JSON}, not {content_type}");
                return Err(Outcome::Refused { reason: "content-type", status_code: 400, message });
            }
            let extraction = version.config.extraction.as_ref().map_err(|fault| Outcome::Refused {
                reason: "settings",
                status_code: 500,
                message: fault.to_string(),
            })?;
            let extracted = extraction.extract(samples, &self.limits(), &self.clock)?;
            self.metrics.extraction(extracted.skipped_fields, extracted.fallbacks);
            Ok(extracted)
        })
    }

    /// Queues what `extract` makes of a message, or says why not; either way it is in the books.
    pub(crate) fn take(
        &self,
        incoming: Incoming,
        extract: impl FnOnce() -> Result<Extracted, Outcome>,
    ) -> Result<(), Declined> {
        let book = self.books.of(&incoming.version.app_name);
        book.receive_message();
        let extracted = match extract() {
            Ok(extracted) => extracted,
            Err(outcome) => {
                return Err(decline(&book, 0, incoming.answer_to, incoming.correlation_id, outcome));
            }
        };
        let points = u64::try_from(extracted.points).unwrap_or(u64::MAX);
        book.receive_points(points);
        let share = match self.queue.share(incoming.payload_bytes, extracted.points) {
            Ok(share) => share,
            Err(full) => {
                return Err(decline(&book, points, incoming.answer_to, incoming.correlation_id, full.into()));
            }
        };
        let work = Work {
            version: incoming.version,
            endpoint_id: incoming.endpoint_id,
            correlation_id: incoming.correlation_id,
            samples: extracted.samples,
            points: extracted.points,
            deadline_ms: incoming.deadline_ms,
            answer_to: incoming.answer_to,
            book: book.clone(),
            span: incoming.span,
            share,
        };
        let full =
            |work: Box<Work>| decline(&book, points, work.answer_to, work.correlation_id, QueueFull.into());
        self.queue.put(work).map_err(full)
    }
}

fn decline(
    book: &Book,
    points: u64,
    answer_to: AnswerTo,
    correlation_id: String,
    outcome: Outcome,
) -> Declined {
    if let Outcome::Refused { reason, .. } = &outcome {
        book.refuse(reason, points);
    }
    Declined { answer_to, correlation_id, outcome }
}

impl From<QueueFull> for Outcome {
    fn from(full: QueueFull) -> Self {
        Self::Refused { reason: "queue-full", status_code: 503, message: full.to_string() }
    }
}

fn is_json(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    media_type.eq_ignore_ascii_case(JSON)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_json_is_taken() {
        for json in ["application/json", "Application/JSON", "application/json; charset=utf-8"] {
            assert!(is_json(json), "{json}");
        }
        for other in ["", "text/plain", "application/x-protobuf", "application/json-seq"] {
            assert!(!is_json(other), "{other}");
        }
    }
}
