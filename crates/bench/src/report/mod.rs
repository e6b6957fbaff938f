//! The results, as JSON lines and as tables.

mod commands;
mod connections;
mod load;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use chrono::{SecondsFormat, Utc};
use serde::Serialize;

pub(crate) use self::commands::CommandsReport;
pub(crate) use self::connections::{ConnectReport, IdleReport};
pub(crate) use self::load::{LoadReport, base_ms, write_ledger};
use crate::processes::Usage;

/// The programs that have a column of their own in the tables.
const PROGRAMS: [&str; 3] = ["bandar", "nats-server", "postgres"];

/// The result of one measurement: one line of the results file.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Report {
    Load(LoadReport),
    Commands(CommandsReport),
    Connect(ConnectReport),
    Idle(IdleReport),
}

impl Report {
    /// True when every receipt was true, every command executed, and every client let in and held.
    pub(crate) fn is_good(&self) -> bool {
        match self {
            Self::Load(report) => report.balanced(),
            Self::Commands(report) => report.all_were_executed(),
            Self::Connect(report) => report.all_were_let_in(),
            Self::Idle(report) => report.all_were_held(),
        }
    }

    fn notes(&self) -> Vec<String> {
        match self {
            Self::Load(report) => report.notes(),
            Self::Commands(report) => report.notes(),
            Self::Connect(report) => report.notes(),
            Self::Idle(report) => report.notes(),
        }
    }
}

/// When, what and where was measured.
#[derive(Debug, Serialize)]
struct Header {
    date: String,
    profile: &'static str,
    host: Host,
    measured_seconds: f64,
    machine_busy_percent: f64,
}

#[derive(Debug, Serialize)]
struct Host {
    processors: usize,
    model: String,
}

impl Header {
    fn new(profile: &'static str, usage: &Usage) -> Self {
        Self {
            date: Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true),
            profile,
            host: host(),
            measured_seconds: round(usage.elapsed.as_secs_f64(), 3),
            machine_busy_percent: round(usage.machine_busy_percent, 1),
        }
    }
}

/// CPU time in µs per message or connection by program; `platform` is the sum without the generator. Empty when no process
/// was named.
#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Cpu(BTreeMap<String, f64>);

impl Cpu {
    /// That of the platform's programs, and that of the generator, for each of `count`.
    fn of(usage: &Usage, count: u64) -> (Self, f64) {
        let each = |us: u64| round(us as f64 / count.max(1) as f64, 2);
        let mut programs: BTreeMap<String, f64> =
            usage.cpu_us.iter().map(|(name, us)| (name.clone(), each(*us))).collect();
        if !programs.is_empty() {
            programs.insert("platform".to_owned(), each(usage.cpu_us.values().sum()));
        }
        (Self(programs), each(usage.generator_us))
    }

    /// As cells of a table, without the generator.
    fn cells(&self) -> String {
        PROGRAMS.iter().chain(&["platform"]).fold(String::new(), |mut cells, name| {
            let _ = match self.0.get(*name) {
                Some(us) => write!(cells, " {us:.1} |"),
                None => write!(cells, " - |"),
            };
            cells
        })
    }
}

/// Appends the report to `<directory>/<date>.jsonl`.
pub(crate) fn keep(report: &Report, directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let file = directory.join(format!("{}.jsonl", Utc::now().format("%Y-%m-%d")));
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(&file)
        .and_then(|mut open| open.write_all(&line))
        .with_context(|| format!("cannot write {}", file.display()))
}

/// The reports as Markdown tables, one for each kind that there is, with notes on whatever is not as it should be.
pub(crate) fn tables(reports: &[Report]) -> String {
    let (mut loads, mut commands, mut connects, mut idles) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for report in reports {
        match report {
            Report::Load(report) => loads.push(report),
            Report::Commands(report) => commands.push(report),
            Report::Connect(report) => connects.push(report),
            Report::Idle(report) => idles.push(report),
        }
    }
    let mut tables = Vec::new();
    if !loads.is_empty() {
        tables.push(load::table(&loads));
    }
    if !commands.is_empty() {
        tables.push(commands::table(&commands));
    }
    if !connects.is_empty() {
        tables.push(connections::connect_table(&connects));
    }
    if !idles.is_empty() {
        tables.push(connections::idle_table(&idles));
    }
    let mut text = tables.join("\n");
    for note in reports.iter().flat_map(Report::notes) {
        let _ = writeln!(text, "\n{note}");
    }
    text
}

fn host() -> Host {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    Host {
        processors: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        model: model.map_or_else(|| "unknown".to_owned(), |(_, name)| name.trim().to_owned()),
    }
}

fn round(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}
