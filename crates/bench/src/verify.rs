//! Reads back what the platform stored and compares it with what the devices hold receipts for.

use std::rc::Rc;

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;

use crate::bits::Bits;
use crate::load::Device;
use crate::rest::{CONCURRENCY, Rest, Series};
use crate::sample;

/// Messages per request: their points stay below the 100,000 that epts gives in one answer.
const MESSAGES_PER_READ: u32 = 25_000;

/// The books after a load. Everything but `messages_stored` and `points_committed` should be 0, and
/// `rows_without_receipt` is 0 unless connections were lost.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Books {
    /// Messages of which at least one point is stored.
    pub(crate) messages_stored: u64,
    pub(crate) points_committed: u64,
    /// Messages with a positive receipt of which a point is missing: broken promises.
    pub(crate) receipts_without_row: u64,
    /// Stored messages whose receipt did not arrive.
    pub(crate) rows_without_receipt: u64,
    /// Messages of which some points are stored and some are not.
    pub(crate) incomplete: u64,
    /// Points that no message carried: an unknown timestamp or another value.
    pub(crate) wrong_points: u64,
    /// Points that are stored more than once.
    pub(crate) duplicates: u64,
}

impl Books {
    /// True when every promise was kept and nothing is stored that was not sent.
    pub(crate) const fn balance(&self) -> bool {
        self.receipts_without_row == 0
            && self.incomplete == 0
            && self.wrong_points == 0
            && self.duplicates == 0
    }

    const fn add(mut self, other: Self) -> Self {
        self.messages_stored += other.messages_stored;
        self.points_committed += other.points_committed;
        self.receipts_without_row += other.receipts_without_row;
        self.rows_without_receipt += other.rows_without_receipt;
        self.incomplete += other.incomplete;
        self.wrong_points += other.wrong_points;
        self.duplicates += other.duplicates;
        self
    }
}

/// Reads the series of every device back and draws up the books.
pub(crate) async fn verify(rest: &Rest, application: &str, devices: &[Rc<Device>]) -> Result<Books> {
    stream::iter(devices)
        .map(|device| verify_device(rest, application, device))
        .buffer_unordered(CONCURRENCY)
        .try_fold(Books::default(), |sum, books| std::future::ready(Ok(sum.add(books))))
        .await
}

async fn verify_device(rest: &Rest, application: &str, device: &Device) -> Result<Books> {
    let (endpoint, sent) = (&device.endpoint, device.log.borrow().sent);
    let mut stored = Stored::default();
    for first in (0..sent).step_by(usize::try_from(MESSAGES_PER_READ)?) {
        let last = sent.min(first.saturating_add(MESSAGES_PER_READ));
        let time = |number: u32| DateTime::<Utc>::from_timestamp_millis(endpoint.base_ms + i64::from(number));
        let (from, to) = time(first).zip(time(last)).context("a timestamp of the load is out of range")?;
        let series = rest.read(application, &endpoint.id, from, to).await?;
        stored.add(series, endpoint.base_ms, first..last);
    }
    Ok(stored.compare(&device.log.borrow().receipts))
}

/// The messages of one device of which a point was found, for each series.
#[derive(Debug, Default)]
struct Stored {
    found: [Bits; sample::SERIES.len()],
    books: Books,
}

impl Stored {
    fn add(&mut self, mut series: Series, base_ms: i64, expected: std::ops::Range<u32>) {
        for (index, (name, found)) in sample::SERIES.iter().zip(&mut self.found).enumerate() {
            for point in series.remove(*name).unwrap_or_default() {
                self.books.points_committed += 1;
                let micros = point.timestamp.timestamp_micros() - base_ms * 1000;
                let number =
                    u32::try_from(micros / 1000).ok().filter(|n| micros % 1000 == 0 && expected.contains(n));
                match number {
                    Some(number) if sample::values(number).get(index) == Some(&point.values.value) => {
                        self.books.duplicates += u64::from(!found.insert(number));
                    }
                    _ => self.books.wrong_points += 1,
                }
            }
        }
    }

    fn compare(self, receipts: &Bits) -> Books {
        let mut books = self.books;
        let (mut any, mut all) = (Bits::default(), Bits::default());
        for number in self.found.iter().flat_map(Bits::iter) {
            any.insert(number);
            if self.found.iter().all(|found| found.contains(number)) {
                all.insert(number);
            }
        }
        books.messages_stored = any.len();
        books.incomplete = any.count_missing_in(&all);
        books.receipts_without_row = receipts.count_missing_in(&all);
        books.rows_without_receipt = any.count_missing_in(receipts);
        books
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rest::{Point, Values};

    const BASE_MS: i64 = 1_763_600_000_000;

    fn point(number: u32, series: usize, shift_us: i64) -> Point {
        let micros = (BASE_MS + i64::from(number)) * 1000 + shift_us;
        let timestamp = DateTime::from_timestamp_micros(micros).unwrap();
        Point { timestamp, values: Values { value: sample::values(number)[series] } }
    }

    fn stored(numbers: [&[u32]; 3]) -> Stored {
        let mut stored = Stored::default();
        let series = (0..3).map(|index| {
            let points = numbers[index].iter().map(|number| point(*number, index, 0)).collect();
            (sample::SERIES[index].to_owned(), points)
        });
        stored.add(series.collect(), BASE_MS, 0..100);
        stored
    }

    fn receipts(numbers: &[u32]) -> Bits {
        let mut bits = Bits::default();
        numbers.iter().for_each(|number| {
            bits.insert(*number);
        });
        bits
    }

    #[test]
    fn balanced_books() {
        let books = stored([&[0, 1, 99], &[0, 1, 99], &[0, 1, 99]]).compare(&receipts(&[0, 1, 99]));
        assert_eq!(books, Books { messages_stored: 3, points_committed: 9, ..Books::default() });
        assert!(books.balance());
    }

    #[test]
    fn a_missing_row_is_a_broken_promise_and_a_missing_receipt_is_not() {
        let books = stored([&[0, 1], &[0, 1], &[0, 1]]).compare(&receipts(&[1, 2]));
        assert_eq!((books.receipts_without_row, books.rows_without_receipt), (1, 1));
        assert!(!books.balance());
        assert!(stored([&[0, 1], &[0, 1], &[0, 1]]).compare(&receipts(&[1])).balance());
    }

    #[test]
    fn half_a_message_is_neither_stored_nor_lost() {
        let books = stored([&[0, 1], &[0], &[0, 1]]).compare(&receipts(&[0]));
        assert_eq!((books.incomplete, books.receipts_without_row, books.messages_stored), (1, 0, 2));
        assert!(!books.balance());
        assert_eq!(stored([&[0, 1], &[0], &[0, 1]]).compare(&receipts(&[0, 1])).receipts_without_row, 1);
    }

    #[test]
    fn foreign_and_repeated_points_are_found() {
        let mut stored = stored([&[5, 5, 100], &[5], &[5]]);
        let shifted = vec![point(6, 0, 1), point(7, 1, 0)];
        stored.add([(sample::SERIES[0].to_owned(), shifted)].into(), BASE_MS, 0..100);
        let books = stored.compare(&receipts(&[5]));
        assert_eq!(
            (books.duplicates, books.wrong_points),
            (1, 3),
            "out of range, between two messages, wrong value"
        );
        assert!(!books.balance());
    }
}
