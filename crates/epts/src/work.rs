//! A message on its way through the service: from extraction to the commit to the answer.

use std::sync::Arc;

use async_nats::Subject;
use ids::{EndpointId, TimeSeriesName};
use runtime::Version;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::books::Book;
use crate::extraction::Refusal;
use crate::point::Sample;
use crate::settings::EptsSettings;

/// What the writer needs to store a message and the publisher to answer it.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) version: Arc<Version<EptsSettings>>,
    pub(crate) endpoint_id: EndpointId,
    pub(crate) correlation_id: String,
    pub(crate) samples: Vec<Sample>,
    /// Points in all samples.
    pub(crate) points: usize,
    /// Milliseconds since 1970 after which nobody waits for the answer.
    pub(crate) deadline_ms: Option<i64>,
    pub(crate) answer_to: AnswerTo,
    pub(crate) book: Arc<Book>,
    /// The message's part in a trace; disabled for most.
    pub(crate) span: tracing::Span,
    /// The message's share of the queue, given back when the message is answered.
    pub(crate) share: OwnedSemaphorePermit,
}

impl Work {
    pub(crate) fn point_count(&self) -> u64 {
        u64::try_from(self.points).unwrap_or(u64::MAX)
    }

    pub(crate) fn is_expired(&self, now_ms: i64) -> bool {
        self.deadline_ms.is_some_and(|deadline| deadline <= now_ms)
    }

    pub(crate) fn series(&self) -> impl Iterator<Item = &TimeSeriesName> {
        self.samples.iter().flat_map(|sample| sample.points.iter().map(|point| &point.series))
    }
}

/// The protocol that a transmitter speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// 13/DSTP: data samples.
    Samples,
    /// 14/TSTP: points. Their transmitter has announced them already.
    Points,
}

/// Who waits for the outcome.
#[derive(Debug)]
pub(crate) enum AnswerTo {
    /// A transmitter, if it gave a reply subject.
    Transmitter(Protocol, Option<Subject>),
    /// A caller of the REST interface.
    Caller(oneshot::Sender<Outcome>),
}

/// The status of an answer after which nobody knows whether the message was stored.
const UNKNOWN_END: i32 = 504;

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Committed and readable.
    Stored,
    /// Certainly not stored, because of what it holds or of a limit.
    Refused { reason: &'static str, status_code: i32, message: String },
    /// Certainly not stored, and a resend may fare better (503) or not (500); with 504 it is not known whether it was stored.
    Failed { status_code: i32, message: String },
    /// The deadline had passed before the commit began.
    Expired,
}

impl Outcome {
    /// Whether something of the message is in the database, or may be.
    pub(crate) fn may_be_stored(&self) -> bool {
        matches!(self, Self::Stored | Self::Failed { status_code: UNKNOWN_END, .. })
    }

    /// Nobody knows whether the message was stored. A gateway must not repeat it by itself: without a timestamp of its own
    /// it would be stored twice.
    pub(crate) fn unknown_end() -> Self {
        Self::Failed {
            status_code: UNKNOWN_END,
            message: "it is not known whether the message was stored".to_owned(),
        }
    }
}

impl From<Refusal> for Outcome {
    fn from(refusal: Refusal) -> Self {
        let (reason, status_code) = (refusal.reason(), refusal.status_code());
        Self::Refused { reason, status_code, message: refusal.to_string() }
    }
}
