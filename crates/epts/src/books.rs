//! The books: what became of every message, by application, since this replica started.
//!
//! received = stored + refused + failed + expired + in flight, at every moment.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use ids::ApplicationName;
use parking_lot::{Mutex, RwLock};
use serde::Serialize;
use utoipa::ToSchema;

/// The books of all applications.
#[derive(Debug, Default)]
pub(crate) struct Books {
    by_application: RwLock<HashMap<ApplicationName, Arc<Book>>>,
}

impl Books {
    /// The book of an application that is known to exist; opened at its first message.
    pub(crate) fn of(&self, application: &ApplicationName) -> Arc<Book> {
        if let Some(book) = self.by_application.read().get(application) {
            return book.clone();
        }
        self.by_application.write().entry(application.clone()).or_default().clone()
    }

    pub(crate) fn all(&self) -> Vec<(ApplicationName, Balance)> {
        self.by_application.read().iter().map(|(name, book)| (name.clone(), book.balance())).collect()
    }
}

/// The counts of one application.
#[derive(Debug, Default)]
pub(crate) struct Book {
    received: Count,
    stored: Count,
    duplicates: AtomicU64,
    changed: AtomicU64,
    failed: Count,
    expired: Count,
    refused: Mutex<BTreeMap<&'static str, u64>>,
    refused_points: AtomicU64,
}

#[derive(Debug, Default)]
struct Count {
    messages: AtomicU64,
    points: AtomicU64,
}

impl Count {
    fn add(&self, messages: u64, points: u64) {
        self.messages.fetch_add(messages, Relaxed);
        self.points.fetch_add(points, Relaxed);
    }
}

/// What a commit did with the points of one application.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) stored: u64,
    pub(crate) duplicates: u64,
    pub(crate) changed: u64,
}

impl Book {
    pub(crate) fn receive_message(&self) {
        self.received.add(1, 0);
    }

    /// Points were taken from a message and go to the writer.
    pub(crate) fn receive_points(&self, points: u64) {
        self.received.add(0, points);
    }

    /// A message is refused, with as many points of it as have been received.
    pub(crate) fn refuse(&self, reason: &'static str, points: u64) {
        *self.refused.lock().entry(reason).or_default() += 1;
        self.refused_points.fetch_add(points, Relaxed);
    }

    pub(crate) fn store_message(&self) {
        self.stored.add(1, 0);
    }

    pub(crate) fn store_points(&self, tally: Tally) {
        self.stored.add(0, tally.stored);
        self.duplicates.fetch_add(tally.duplicates, Relaxed);
        self.changed.fetch_add(tally.changed, Relaxed);
    }

    pub(crate) fn fail(&self, points: u64) {
        self.failed.add(1, points);
    }

    pub(crate) fn expire(&self, points: u64) {
        self.expired.add(1, points);
    }

    pub(crate) fn balance(&self) -> Balance {
        // What is received is read last, so that nothing seems to have come out that has not gone in.
        let refused = self.refused.lock().clone();
        let refused: BTreeMap<String, u64> =
            refused.into_iter().map(|(reason, count)| (reason.to_owned(), count)).collect();
        let [stored, failed, expired] = [&self.stored, &self.failed, &self.expired]
            .map(|count| (count.messages.load(Relaxed), count.points.load(Relaxed)));
        let [duplicates, changed, refused_points] =
            [&self.duplicates, &self.changed, &self.refused_points].map(|count| count.load(Relaxed));
        let received = (self.received.messages.load(Relaxed), self.received.points.load(Relaxed));
        let gone = stored.0 + failed.0 + expired.0 + refused.values().sum::<u64>();
        let messages = MessageBalance {
            received: received.0,
            stored: stored.0,
            refused,
            failed: failed.0,
            expired: expired.0,
            in_flight: received.0.saturating_sub(gone),
        };
        let gone = stored.1 + duplicates + changed + refused_points + failed.1 + expired.1;
        let points = PointBalance {
            received: received.1,
            stored: stored.1,
            duplicates,
            changed,
            refused: refused_points,
            failed: failed.1,
            expired: expired.1,
            in_flight: received.1.saturating_sub(gone),
        };
        Balance { messages, points }
    }
}

/// The books of one application in one replica since it started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Balance {
    /// received = stored + refused + failed + expired + inFlight
    pub messages: MessageBalance,
    /// received = stored + duplicates + changed + refused + failed + expired + inFlight
    pub points: PointBalance,
}

/// What became of messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MessageBalance {
    /// Taken from the network.
    pub received: u64,
    /// Committed and confirmed.
    pub stored: u64,
    /// Not stored because of what they hold or of a limit, by reason.
    pub refused: BTreeMap<String, u64>,
    /// Not confirmed because the database failed or its answer was lost.
    pub failed: u64,
    /// Dropped because their deadline had passed before their commit began.
    pub expired: u64,
    /// Not yet decided.
    pub in_flight: u64,
}

/// What became of points.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PointBalance {
    /// Taken from messages whose content was in order.
    pub received: u64,
    /// New in the database.
    pub stored: u64,
    /// Already there with the same values: resends.
    pub duplicates: u64,
    /// Already there with other values, which were replaced.
    pub changed: u64,
    /// Of messages that a limit refused afterwards.
    pub refused: u64,
    /// Of messages that failed.
    pub failed: u64,
    /// Of messages that expired.
    pub expired: u64,
    /// Not yet decided.
    pub in_flight: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_books_balance_at_every_step() {
        let books = Books::default();
        let book = books.of(&ApplicationName::parse("app").unwrap());
        for _ in 0..5 {
            book.receive_message();
        }
        book.refuse("not-json", 0);
        book.receive_points(12);
        assert_eq!(book.balance().messages.in_flight, 4);
        book.store_message();
        book.store_points(Tally { stored: 2, duplicates: 1, changed: 0 });
        book.fail(3);
        book.expire(3);
        book.refuse("too-many-series", 3);
        let balance = book.balance();
        assert_eq!((balance.messages.in_flight, balance.points.in_flight), (0, 0));
        assert_eq!((balance.messages.received, balance.messages.stored), (5, 1));
        assert_eq!(
            balance.messages.refused,
            BTreeMap::from([("not-json".into(), 1), ("too-many-series".into(), 1)])
        );
        assert_eq!((balance.points.received, balance.points.duplicates), (12, 1));
        assert_eq!(books.all().len(), 1);
    }
}
