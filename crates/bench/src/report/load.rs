//! The result of a load.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{Cpu, Header, round};
use crate::load::{Measured, Totals};
use crate::profile::Profile;
use crate::verify::Books;

/// One line of the results file.
#[derive(Debug, Serialize)]
pub(crate) struct LoadReport {
    #[serde(flatten)]
    header: Header,
    /// What devices show beside their endpoint's token.
    authentication: &'static str,
    transport: &'static str,
    connections: u32,
    in_flight: usize,
    /// Messages per second that were asked for; as many as possible when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<u32>,
    /// The application in which the data lies.
    application: String,
    messages: u64,
    messages_per_second: f64,
    receipt_p50_ms: f64,
    receipt_p99_ms: f64,
    receipt_max_ms: f64,
    cpu_us_per_message: Cpu,
    generator_cpu_us_per_message: f64,
    totals: Totals,
    #[serde(flatten)]
    books: Books,
    balanced: bool,
}

impl LoadReport {
    pub(crate) fn new(
        profile: Profile,
        rate: Option<u32>,
        application: &str,
        measured: &Measured,
        totals: Totals,
        books: Books,
    ) -> Self {
        let usage = &measured.usage;
        let (cpu_us_per_message, generator) = Cpu::of(usage, measured.receipts);
        Self {
            header: Header::new(profile.name(), usage),
            authentication: profile.transport().authentication(),
            transport: profile.transport().name(),
            connections: profile.connections(),
            in_flight: profile.in_flight(),
            rate,
            application: application.to_owned(),
            messages: measured.receipts,
            messages_per_second: round(usage.per_second(measured.receipts), 1),
            receipt_p50_ms: measured.latencies.quantile_ms(0.5),
            receipt_p99_ms: measured.latencies.quantile_ms(0.99),
            receipt_max_ms: measured.latencies.max_ms(),
            cpu_us_per_message,
            generator_cpu_us_per_message: generator,
            // A contradiction is a receipt that was taken back: no row needs to be missing for it to be false.
            balanced: books.balance() && totals.contradictions == 0 && totals.receipts > 0,
            totals,
            books,
        }
    }

    /// True when the load got receipts and every one of them was true.
    pub(crate) const fn balanced(&self) -> bool {
        self.balanced
    }

    /// A sentence for each thing that a reader of the table should know.
    pub(super) fn notes(&self) -> Vec<String> {
        let (totals, books) = (&self.totals, &self.books);
        let mut notes = Vec::new();
        let mut note = |count: u64, text: &str| {
            if count > 0 {
                notes.push(format!("{}: {count} {text}", self.header.profile));
            }
        };
        note(u64::from(totals.receipts == 0), "load without a single receipt");
        note(books.receipts_without_row, "receipts whose data is not stored");
        note(books.incomplete, "messages of which only a part is stored");
        note(books.wrong_points, "stored points that no message carried");
        note(books.duplicates, "points stored more than once");
        note(totals.contradictions, "messages with both a receipt and an error");
        note(totals.refused.values().sum(), "messages refused");
        note(totals.failed.values().sum(), "passing failures reported by the platform");
        note(totals.reconnects, "connections lost");
        note(totals.stalls, "connections on which the gateway fell silent");
        for (status, words) in &totals.reasons {
            notes.push(format!("{}: the first {status} said: {words}", self.header.profile));
        }
        if let Some(reason) = &totals.first_loss {
            notes.push(format!("{}: the first connection was lost because: {reason}", self.header.profile));
        }
        notes
    }
}

/// The loads as a Markdown table.
pub(super) fn table(reports: &[&LoadReport]) -> String {
    let mut text = String::from(
        "| profile | messages/s | receipt p50 / p99 ms | CPU µs/message: bandar | nats-server | postgres | platform \
         | generator | points committed | receipts without a row | rows without a receipt |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for report in reports {
        let _ = writeln!(
            text,
            "| {} | {:.0} | {:.2} / {:.2} |{} {:.1} | {} | {} | {} |",
            report.header.profile,
            report.messages_per_second,
            report.receipt_p50_ms,
            report.receipt_p99_ms,
            report.cpu_us_per_message.cells(),
            report.generator_cpu_us_per_message,
            report.books.points_committed,
            report.books.receipts_without_row,
            report.books.rows_without_receipt,
        );
    }
    text
}

/// Writes the receipts of a load as lines of endpoint id and timestamp.
pub(crate) fn write_ledger<'a>(file: &Path, receipts: impl Iterator<Item = (&'a str, i64)>) -> Result<()> {
    let open = OpenOptions::new().create(true).append(true).open(file);
    let mut out = std::io::BufWriter::new(open.with_context(|| format!("cannot write {}", file.display()))?);
    for (endpoint, timestamp_ms) in receipts {
        writeln!(out, "{endpoint},{timestamp_ms}")?;
    }
    out.flush().with_context(|| format!("cannot write {}", file.display()))
}

/// Milliseconds since 1970 at the start of the minute of `time`, an hour before: timestamps of a load start here.
pub(crate) fn base_ms(time: DateTime<Utc>) -> i64 {
    const HOUR_MS: i64 = 3_600_000;
    const MINUTE_MS: i64 = 60_000;
    (time.timestamp_millis() - HOUR_MS) / MINUTE_MS * MINUTE_MS
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::histogram::Histogram;
    use crate::processes::Usage;
    use crate::report::{Report, tables};

    fn report(books: Books, totals: Totals) -> LoadReport {
        let usage = Usage {
            elapsed: Duration::from_secs(10),
            cpu_us: [("bandar".to_owned(), 20_000), ("postgres".to_owned(), 5_000)].into(),
            generator_us: 3_000,
            machine_busy_percent: 50.0,
        };
        let measured = Measured { receipts: 1000, latencies: Histogram::default(), usage };
        LoadReport::new(Profile::Http, None, "app", &measured, totals, books)
    }

    #[test]
    fn per_message_figures() {
        let totals = Totals { receipts: 1200, ..Totals::default() };
        let report = report(Books { points_committed: 3600, ..Books::default() }, totals);
        assert!(report.balanced());
        let table = tables(&[Report::Load(report)]);
        let row = table.lines().nth(2).unwrap();
        assert_eq!(row, "| http | 100 | 0.00 / 0.00 | 20.0 | - | 5.0 | 25.0 | 3.0 | 3600 | 0 | 0 |");
        assert_eq!(table.lines().count(), 3, "nothing to note");
    }

    #[test]
    fn whatever_is_wrong_is_noted() {
        let books = Books { receipts_without_row: 2, ..Books::default() };
        let reasons = [(503, "no service answers".to_owned())].into();
        let totals =
            Totals { receipts: 5, reasons, first_loss: Some("no route".into()), ..Totals::default() };
        let report = report(books, totals);
        assert!(!report.balanced());
        let table = tables(&[Report::Load(report)]);
        assert!(table.contains("http: 2 receipts whose data is not stored"), "{table}");
        assert!(table.contains("http: the first 503 said: no service answers"), "{table}");
        assert!(table.contains("the first connection was lost because: no route"), "{table}");
        assert!(!self::report(Books::default(), Totals::default()).balanced(), "no receipt at all");
        let contradiction = Totals { receipts: 5, contradictions: 1, ..Totals::default() };
        assert!(!self::report(Books::default(), contradiction).balanced());
    }
}
