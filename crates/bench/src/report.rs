//! The results, as JSON lines and as a table.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;

use crate::load::{Measured, Totals};
use crate::profile::{Profile, Transport};
use crate::verify::Books;

/// The programs that have a column of their own in the table.
const PROGRAMS: [&str; 3] = ["bandar", "nats-server", "postgres"];

/// The result of one load: one line of the results file.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    date: String,
    profile: &'static str,
    transport: &'static str,
    connections: u32,
    in_flight: usize,
    /// Messages per second that were asked for; as many as possible when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<u32>,
    host: Host,
    /// The application in which the data lies.
    application: String,
    measured_seconds: f64,
    messages: u64,
    messages_per_second: f64,
    receipt_p50_ms: f64,
    receipt_p99_ms: f64,
    receipt_max_ms: f64,
    /// CPU time per message by program; `platform` is the sum without the generator. Empty when no process was named.
    cpu_us_per_message: BTreeMap<String, f64>,
    generator_cpu_us_per_message: f64,
    machine_busy_percent: f64,
    totals: Totals,
    #[serde(flatten)]
    books: Books,
    balanced: bool,
}

#[derive(Debug, Serialize)]
struct Host {
    processors: usize,
    model: String,
}

impl Report {
    pub(crate) fn new(
        profile: Profile,
        rate: Option<u32>,
        application: &str,
        measured: &Measured,
        totals: Totals,
        books: Books,
    ) -> Self {
        let per_message = |us: u64| round(us as f64 / measured.receipts.max(1) as f64, 2);
        let mut cpu: BTreeMap<String, f64> =
            measured.cpu_us.iter().map(|(name, us)| (name.clone(), per_message(*us))).collect();
        if !cpu.is_empty() {
            cpu.insert("platform".to_owned(), per_message(measured.cpu_us.values().sum()));
        }
        Self {
            date: Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true),
            profile: profile.name(),
            transport: match profile.transport() {
                Transport::Mqtt => "mqtt",
                Transport::Http => "http",
            },
            connections: profile.connections(),
            in_flight: profile.in_flight(),
            rate,
            host: host(),
            application: application.to_owned(),
            measured_seconds: round(measured.elapsed.as_secs_f64(), 3),
            messages: measured.receipts,
            messages_per_second: round(
                measured.receipts as f64 / measured.elapsed.as_secs_f64().max(1e-9),
                1,
            ),
            receipt_p50_ms: measured.latencies.quantile_ms(0.5),
            receipt_p99_ms: measured.latencies.quantile_ms(0.99),
            receipt_max_ms: measured.latencies.max_ms(),
            cpu_us_per_message: cpu,
            generator_cpu_us_per_message: per_message(measured.generator_us),
            machine_busy_percent: round(measured.busy_percent, 1),
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
    fn notes(&self) -> Vec<String> {
        let (totals, books) = (&self.totals, &self.books);
        let mut notes = Vec::new();
        let mut note = |count: u64, text: &str| {
            if count > 0 {
                notes.push(format!("{}: {count} {text}", self.profile));
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
            notes.push(format!("{}: the first {status} said: {words}", self.profile));
        }
        if let Some(reason) = &totals.first_loss {
            notes.push(format!("{}: the first connection was lost because: {reason}", self.profile));
        }
        notes
    }
}

/// Appends the report to `<directory>/<date>.jsonl` and gives back the file's name.
pub(crate) fn keep(report: &Report, directory: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let file = directory.join(format!("{}.jsonl", Utc::now().format("%Y-%m-%d")));
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(&file)
        .and_then(|mut open| open.write_all(&line))
        .with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

/// The reports as a Markdown table with notes on whatever is not as it should be.
pub(crate) fn table(reports: &[Report]) -> String {
    let mut text = String::from(
        "| profile | messages/s | receipt p50 / p99 ms | CPU µs/message: bandar | nats-server | postgres | platform \
         | generator | points committed | receipts without a row | rows without a receipt |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for report in reports {
        let cpu = PROGRAMS.iter().chain(&["platform"]).fold(String::new(), |mut cells, name| {
            let _ = match report.cpu_us_per_message.get(*name) {
                Some(us) => write!(cells, " {us:.1} |"),
                None => write!(cells, " - |"),
            };
            cells
        });
        let _ = writeln!(
            text,
            "| {} | {:.0} | {:.2} / {:.2} |{cpu} {:.1} | {} | {} | {} |",
            report.profile,
            report.messages_per_second,
            report.receipt_p50_ms,
            report.receipt_p99_ms,
            report.generator_cpu_us_per_message,
            report.books.points_committed,
            report.books.receipts_without_row,
            report.books.rows_without_receipt,
        );
    }
    for note in reports.iter().flat_map(Report::notes) {
        let _ = writeln!(text, "\n{note}");
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

fn host() -> Host {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    Host {
        processors: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        model: model.map_or_else(|| "unknown".to_owned(), |(_, name)| name.trim().to_owned()),
    }
}

/// Milliseconds since 1970 at the start of the minute of `time`, an hour before: timestamps of a load start here.
pub(crate) fn base_ms(time: DateTime<Utc>) -> i64 {
    const HOUR_MS: i64 = 3_600_000;
    const MINUTE_MS: i64 = 60_000;
    (time.timestamp_millis() - HOUR_MS) / MINUTE_MS * MINUTE_MS
}

fn round(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::histogram::Histogram;

    fn report(books: Books, totals: Totals) -> Report {
        let measured = Measured {
            elapsed: Duration::from_secs(10),
            receipts: 1000,
            latencies: Histogram::default(),
            cpu_us: [("bandar".to_owned(), 20_000), ("postgres".to_owned(), 5_000)].into(),
            generator_us: 3_000,
            busy_percent: 50.0,
        };
        Report::new(Profile::Http, None, "app", &measured, totals, books)
    }

    #[test]
    fn per_message_figures() {
        let totals = Totals { receipts: 1200, ..Totals::default() };
        let report = report(Books { points_committed: 3600, ..Books::default() }, totals);
        assert!(report.balanced());
        let table = table(&[report]);
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
        let table = table(&[report]);
        assert!(table.contains("http: 2 receipts whose data is not stored"), "{table}");
        assert!(table.contains("http: the first 503 said: no service answers"), "{table}");
        assert!(table.contains("the first connection was lost because: no route"), "{table}");
        assert!(!self::report(Books::default(), Totals::default()).balanced(), "no receipt at all");
        let contradiction = Totals { receipts: 5, contradictions: 1, ..Totals::default() };
        assert!(!self::report(Books::default(), contradiction).balanced());
    }
}
