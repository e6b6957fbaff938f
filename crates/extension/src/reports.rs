//! What the gateway's replicas report of a push or of a message on a topic.
//!
//! A replica that has a client for it says so at once (102), and then what became of it: 200, 404 when nothing was written
//! and nothing will be, 504 when the client may have it. Of those that were asked together, the others say nothing. None of
//! them writes before the NATS server has its 102, so silence means that no client got it, if NATS was there all the while.

use std::time::Duration;

use bytes::Bytes;
use runtime::{Replies, RequestError};
use tokio::time::Instant;

/// A replica reports at the deadline at the latest, and the report must come here.
const REPORT_GRACE: Duration = Duration::from_millis(500);
/// How long other replicas are awaited after the last one that tried could not deliver: all hear the message at about the same
/// time, and write nothing more than 1 s later.
const OTHERS_PATIENCE: Duration = Duration::from_secs(2);

/// What was heard of a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Delivered,
    /// Nothing was written, and nothing will be.
    NotThere,
    /// A replica tried to deliver it, and the client may have it.
    Unknown,
    /// Nothing.
    Silence,
}

/// Who was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    OneReplica,
    AllReplicas,
}

/// Waits for the reports on a message that is not written any more after `deadline`; for the first one until `patience`.
pub(crate) async fn hear(
    replies: &mut Replies,
    asked: Asked,
    patience: Instant,
    deadline: Instant,
    status_of: fn(&Bytes) -> i32,
) -> Heard {
    let (mut reports, mut until) = (Reports::default(), patience);
    loop {
        match replies.next(until).await.map(|report| reports.add(status_of(&report.payload))) {
            Ok(Next::Delivered) => return Heard::Delivered,
            Ok(Next::Trying) => until = deadline + REPORT_GRACE,
            Ok(Next::Failed) if reports.is_complete(asked) => return reports.outcome(),
            Ok(Next::Failed) if reports.trying == 0 => until = until.min(Instant::now() + OTHERS_PATIENCE),
            Ok(Next::Failed) => {}
            Err(RequestError::NoResponders) => return Heard::NotThere,
            Err(_) => return reports.outcome(),
        }
    }
}

/// What is known from the reports so far.
#[derive(Debug, Default)]
struct Reports {
    /// Replicas that try to deliver it and have not said more.
    trying: u32,
    has_tried: bool,
    has_failed: bool,
    /// A client may have it: written, and not acknowledged.
    is_uncertain: bool,
}

/// What a report says.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Delivered,
    Trying,
    Failed,
}

impl Reports {
    fn add(&mut self, status_code: i32) -> Next {
        match status_code {
            200 => return Next::Delivered,
            102 => {
                self.trying = self.trying.saturating_add(1);
                self.has_tried = true;
                return Next::Trying;
            }
            404 => {}
            _ => self.is_uncertain = true,
        }
        self.trying = self.trying.saturating_sub(1);
        self.has_failed = true;
        Next::Failed
    }

    /// Whether a failure is the last word: of the only replica, or of one that did not try, which speaks for all.
    fn is_complete(&self, asked: Asked) -> bool {
        asked == Asked::OneReplica || !self.has_tried
    }

    fn outcome(&self) -> Heard {
        if self.trying > 0 || self.is_uncertain {
            Heard::Unknown
        } else if self.has_failed {
            Heard::NotThere
        } else {
            Heard::Silence
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(statuses: &[i32]) -> Heard {
        let mut reports = Reports::default();
        if statuses.iter().any(|status| reports.add(*status) == Next::Delivered) {
            return Heard::Delivered;
        }
        reports.outcome()
    }

    #[test]
    fn only_what_is_certain_is_said_so() {
        assert_eq!(told(&[]), Heard::Silence);
        assert_eq!(told(&[404]), Heard::NotThere);
        assert_eq!(told(&[102, 404]), Heard::NotThere);
        assert_eq!(told(&[102]), Heard::Unknown);
        assert_eq!(told(&[102, 504]), Heard::Unknown);
        assert_eq!(told(&[504]), Heard::Unknown);
        assert_eq!(told(&[102, 102, 404]), Heard::Unknown);
        assert_eq!(told(&[102, 504, 102, 200]), Heard::Delivered);
        assert_eq!(told(&[500]), Heard::Unknown);
    }
}
