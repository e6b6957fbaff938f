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
    by_application: RwLock<HashMap<ApplicationName, Entry>>,
    labelled_max: usize,
}

#[derive(Debug)]
struct Entry {
    book: Arc<Book>,
    /// Whether metrics name the application. It stays as it was decided at the start, so that counters never fall.
    is_labelled: bool,
}

/// What metrics call the applications beyond the limit, together.
const OTHER: &str = "other";

impl Books {
    /// Metrics name at most so many applications.
    pub(crate) fn new(labelled_max: usize) -> Self {
        Self { by_application: RwLock::default(), labelled_max }
    }

    /// The book of an application that is known to exist; opened at its first message.
    pub(crate) fn of(&self, application: &ApplicationName) -> Arc<Book> {
        if let Some(entry) = self.by_application.read().get(application) {
            return entry.book.clone();
        }
        let mut books = self.by_application.write();
        let is_labelled = books.len() < self.labelled_max;
        let open = || Entry { book: Arc::default(), is_labelled };
        books.entry(application.clone()).or_insert_with(open).book.clone()
    }

    /// The books by the label of their applications in metrics: the name of the first ones, `other` for the rest together.
    pub(crate) fn by_label(&self) -> BTreeMap<String, Balance> {
        let mut labelled: BTreeMap<String, Balance> = BTreeMap::new();
        for (name, entry) in &*self.by_application.read() {
            let label = if entry.is_labelled { name.as_str() } else { OTHER };
            let balance = entry.book.balance();
            match labelled.get_mut(label) {
                Some(sum) => sum.add(&balance),
                None => drop(labelled.insert(label.to_owned(), balance)),
            }
        }
        labelled
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

impl Balance {
    fn add(&mut self, other: &Self) {
        let (messages, points) = (&mut self.messages, &mut self.points);
        messages.received += other.messages.received;
        messages.stored += other.messages.stored;
        for (reason, count) in &other.messages.refused {
            *messages.refused.entry(reason.clone()).or_default() += count;
        }
        messages.failed += other.messages.failed;
        messages.expired += other.messages.expired;
        messages.in_flight += other.messages.in_flight;
        points.received += other.points.received;
        points.stored += other.points.stored;
        points.duplicates += other.points.duplicates;
        points.changed += other.points.changed;
        points.refused += other.points.refused;
        points.failed += other.points.failed;
        points.expired += other.points.expired;
        points.in_flight += other.points.in_flight;
    }
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
    }

    #[test]
    fn applications_beyond_the_limit_are_counted_together() {
        let books = Books::new(2);
        for (name, points) in [("a", 1), ("other", 2), ("c", 4), ("d", 8)] {
            for _ in 0..2 {
                let book = books.of(&ApplicationName::parse(name).unwrap());
                book.receive_message();
                book.receive_points(points);
                book.refuse("too-many-series", points);
            }
        }
        let labelled = books.by_label();
        let shown: Vec<_> = labelled
            .iter()
            .map(|(label, balance)| {
                (label.as_str(), balance.messages.refused["too-many-series"], balance.points.received)
            })
            .collect();
        // An application that has the name is among them.
        assert_eq!(shown, [("a", 2, 2), ("other", 6, 28)]);
    }
}
