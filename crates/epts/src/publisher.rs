//! Answers and events, in this order, once it is decided what became of a message.

use std::collections::BTreeMap;

use async_nats::{Client, HeaderMap, Subject};
use bytes::Bytes;
use ids::{InstanceName, TimeSeriesName};
use ism::Record as _;
use ism::dstp::DataSamplesProcessed;
use ism::tstp::{self, DataPoint, TimeSeriesEvent, TimeSeriesProcessed};
use tokio::sync::mpsc;

use crate::point::{DEFAULT_VALUE_NAME, Point, Sample, Scalar, UNEXTRACTED_SERIES, Values};
use crate::work::{AnswerTo, Outcome, Protocol, Work};

/// A message and what became of it.
pub(crate) type Done = (Work, Outcome);

/// Sends what the service has to say over NATS. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Publisher {
    client: Client,
    instance: InstanceName,
}

/// What an event is made of, when the message that it came from has been answered and given back its place.
struct StoredMessage {
    correlation_id: String,
    app_version_name: String,
    endpoint_id: String,
    samples: Vec<Sample>,
    headers: Option<HeaderMap>,
}

impl Publisher {
    pub(crate) fn new(client: Client, instance: InstanceName) -> Self {
        Self { client, instance }
    }

    /// Answers what the writers have done until they have ended.
    pub(crate) async fn run(self, mut done: mpsc::Receiver<Vec<Done>>) {
        while let Some(batch) = done.recv().await {
            // All answers of a commit go out before the first event: devices wait for those.
            let mut stored = Vec::new();
            for (work, outcome) in batch {
                stored.extend(self.settle(work, outcome).await);
            }
            for message in stored {
                self.announce(message).await;
            }
        }
    }

    /// Writes the outcome into the books and answers whoever waits; hands back what there is to announce.
    async fn settle(&self, work: Work, outcome: Outcome) -> Option<StoredMessage> {
        let headers =
            if work.span.is_disabled() { None } else { work.span.in_scope(runtime::trace::headers) };
        let is_announced = matches!(work.answer_to, AnswerTo::Transmitter(Protocol::Points, _));
        let is_news = matches!(outcome, Outcome::Stored) && !is_announced;
        let points = work.point_count();
        match &outcome {
            Outcome::Stored => work.book.store_message(),
            Outcome::Refused { reason, .. } => work.book.refuse(reason, points),
            Outcome::Failed { .. } => work.book.fail(points),
            Outcome::Expired => work.book.expire(points),
        }
        let correlation_id = work.correlation_id;
        drop(work.share);
        match work.answer_to {
            AnswerTo::Transmitter(protocol, Some(reply)) => {
                self.answer((protocol, reply), &correlation_id, &outcome, headers.clone()).await
            }
            AnswerTo::Transmitter(_, None) => {}
            // A caller who has gone does not want to know.
            AnswerTo::Caller(caller) => drop(caller.send(outcome)),
        }
        is_news.then(|| StoredMessage {
            correlation_id,
            app_version_name: work.version.app_version_name.to_string(),
            endpoint_id: work.endpoint_id.to_string(),
            samples: work.samples,
            headers,
        })
    }

    /// Answers a transmitter (13/DSTP, 14/TSTP). For an expired message nobody waits any more.
    pub(crate) async fn answer(
        &self,
        (protocol, reply): (Protocol, Subject),
        correlation_id: &str,
        outcome: &Outcome,
        headers: Option<HeaderMap>,
    ) {
        let (status_code, reason_phrase) = match outcome {
            Outcome::Stored => (200, None),
            Outcome::Refused { status_code, message, .. } => {
                tracing::debug!(correlation_id, status_code, message, "a message was refused");
                (*status_code, Some(message.clone()))
            }
            Outcome::Failed { status_code, message } => {
                tracing::debug!(correlation_id, status_code, message, "a message was not stored");
                (*status_code, Some(message.clone()))
            }
            Outcome::Expired => {
                tracing::debug!(correlation_id, "a message expired before it was stored");
                return;
            }
        };
        let (correlation_id, timestamp, timeout) = (correlation_id.to_owned(), runtime::now_ms(), 0);
        let processed = match protocol {
            Protocol::Samples => {
                let receiver_service_instance_name = self.instance.to_string();
                DataSamplesProcessed {
                    correlation_id,
                    timestamp,
                    timeout,
                    receiver_service_instance_name,
                    status_code,
                    reason_phrase,
                }
                .encode()
            }
            Protocol::Points => {
                TimeSeriesProcessed { correlation_id, timestamp, timeout, status_code, reason_phrase }
                    .encode()
            }
        };
        self.publish(reply, processed, headers).await;
    }

    /// Tells who listens about new points (14/TSTP): one event for each series of the message.
    async fn announce(&self, message: StoredMessage) {
        let now_ms = runtime::now_ms();
        let mut by_series: BTreeMap<&TimeSeriesName, Vec<DataPoint>> = BTreeMap::new();
        for sample in &message.samples {
            let extracted = sample.points.iter().filter(|point| point.series.as_str() != UNEXTRACTED_SERIES);
            for Point { series, values } in extracted {
                by_series.entry(series).or_default().push(DataPoint {
                    ingestion_timestamp: now_ms,
                    timestamp: sample.stamp.moment().millis(),
                    values: announced(values),
                });
            }
        }
        for (series, data_points) in by_series {
            let event = TimeSeriesEvent {
                correlation_id: message.correlation_id.clone(),
                timestamp: now_ms,
                timeout: 0,
                app_version_name: message.app_version_name.clone(),
                endpoint_id: message.endpoint_id.clone(),
                time_series_name: series.to_string(),
                data_points,
            };
            let subject = tstp::data_points_received(&self.instance, series);
            self.publish(subject.into(), event.encode(), message.headers.clone()).await;
        }
    }

    async fn publish(&self, subject: Subject, payload: Bytes, headers: Option<HeaderMap>) {
        let sent = match headers {
            Some(headers) => self.client.publish_with_headers(subject, headers, payload).await,
            None => self.client.publish(subject, payload).await,
        };
        if let Err(error) = sent {
            // A missing answer is a missing receipt: the device sends again.
            tracing::warn!(%error, "a message could not be handed to NATS");
        }
    }
}

/// The values as 14/TSTP carries them. Every number is a double, so that consumers see one type; only an integer that no
/// double can hold is a long.
fn announced(values: &Values) -> BTreeMap<String, tstp::Value> {
    let value = |scalar: &Scalar| match scalar {
        Scalar::Null => tstp::Value::Null,
        Scalar::Boolean(boolean) => tstp::Value::Boolean(*boolean),
        Scalar::Number(number) => match (Values::number(number), number.as_i64(), number.as_f64()) {
            (Values::Number(double), _, _) => tstp::Value::Double(double),
            (_, Some(long), _) => tstp::Value::Long(long),
            (_, None, double) => double.map_or(tstp::Value::Null, tstp::Value::Double),
        },
        Scalar::String(text) => tstp::Value::String(text.clone()),
    };
    match values {
        Values::Number(number) => {
            BTreeMap::from([(DEFAULT_VALUE_NAME.to_owned(), tstp::Value::Double(*number))])
        }
        Values::Named(named) => named.iter().map(|(name, scalar)| (name.clone(), value(scalar))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_announced_as_doubles_unless_that_would_change_them() {
        let number = |text: &str| Scalar::Number(serde_json::from_str(text).unwrap());
        let named = ["1", "0.5", "9007199254740993"].map(|text| (text.to_owned(), number(text)));
        let announced = announced(&Values::Named(named.into()));
        assert_eq!(announced["1"], tstp::Value::Double(1.0));
        assert_eq!(announced["0.5"], tstp::Value::Double(0.5));
        assert_eq!(announced["9007199254740993"], tstp::Value::Long(9_007_199_254_740_993));
    }
}
