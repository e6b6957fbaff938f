//! The results of clients that only connect.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::{Cpu, Header, round};
use crate::connect::Tally;
use crate::idle::Outcome;
use crate::processes::Usage;
use crate::profile::Access;

/// How fast clients got in: one line of the results file.
#[derive(Debug, Serialize)]
pub(crate) struct ConnectReport {
    #[serde(flatten)]
    header: Header,
    access: &'static str,
    /// Clients that were about to connect at the same time.
    connecting: u32,
    connections: u64,
    connections_per_second: f64,
    connack_p50_ms: f64,
    connack_p99_ms: f64,
    connack_max_ms: f64,
    cpu_us_per_connection: Cpu,
    generator_cpu_us_per_connection: f64,
    /// By the code of the CONNACK, warm-up included.
    refused: BTreeMap<u8, u64>,
    /// Without a CONNACK, warm-up included.
    failed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_failure: Option<String>,
}

impl ConnectReport {
    pub(crate) fn new(access: Access, connecting: u32, tally: Tally, usage: &Usage) -> Self {
        let (cpu_us_per_connection, generator) = Cpu::of(usage, tally.connections);
        Self {
            header: Header::new("connect", usage),
            access: access.name(),
            connecting,
            connections: tally.connections,
            connections_per_second: round(usage.per_second(tally.connections), 1),
            connack_p50_ms: tally.latencies.quantile_ms(0.5),
            connack_p99_ms: tally.latencies.quantile_ms(0.99),
            connack_max_ms: tally.latencies.max_ms(),
            cpu_us_per_connection,
            generator_cpu_us_per_connection: generator,
            refused: tally.refused,
            failed: tally.failed,
            first_failure: tally.first_failure,
        }
    }

    pub(super) const fn all_were_let_in(&self) -> bool {
        self.connections > 0 && self.first_failure.is_none()
    }

    pub(super) fn notes(&self) -> Vec<String> {
        let what = format!("connect {}", self.access);
        let mut notes = Vec::new();
        if self.connections == 0 {
            notes.push(format!("{what}: not a single connection"));
        }
        for (code, count) in &self.refused {
            notes.push(format!("{what}: {count} clients refused with code {code}"));
        }
        if self.failed > 0 {
            notes.push(format!("{what}: {} clients without a CONNACK", self.failed));
        }
        if let Some(reason) = &self.first_failure {
            notes.push(format!("{what}: the first failed because: {reason}"));
        }
        notes
    }
}

pub(super) fn connect_table(reports: &[&ConnectReport]) -> String {
    let mut text = String::from(
        "| connect | connections/s | CONNACK p50 / p99 ms | CPU µs/connection: bandar | nats-server | postgres \
         | platform | generator |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for report in reports {
        let _ = writeln!(
            text,
            "| {} | {:.0} | {:.2} / {:.2} |{} {:.1} |",
            report.access,
            report.connections_per_second,
            report.connack_p50_ms,
            report.connack_p99_ms,
            report.cpu_us_per_connection.cells(),
            report.generator_cpu_us_per_connection,
        );
    }
    text
}

/// What clients cost that are there and say nothing: one line of the results file.
#[derive(Debug, Serialize)]
pub(crate) struct IdleReport {
    #[serde(flatten)]
    header: Header,
    access: &'static str,
    connections: u32,
    /// Those that answered a ping at the end.
    answered: u32,
    resident_before_kib: u64,
    resident_after_kib: u64,
    resident_kib_per_connection: f64,
    /// Whether the memory had come to rest both times.
    steady: bool,
}

impl IdleReport {
    pub(crate) fn new(access: Access, outcome: &Outcome, usage: &Usage) -> Self {
        let (before, after) = (outcome.before.kib as f64, outcome.after.kib as f64);
        Self {
            header: Header::new("idle", usage),
            access: access.name(),
            connections: outcome.connections,
            answered: outcome.answered,
            resident_before_kib: outcome.before.kib,
            resident_after_kib: outcome.after.kib,
            resident_kib_per_connection: round((after - before) / f64::from(outcome.connections.max(1)), 2),
            steady: outcome.before.steady && outcome.after.steady,
        }
    }

    pub(super) const fn all_were_held(&self) -> bool {
        self.connections == self.answered
    }

    pub(super) fn notes(&self) -> Vec<String> {
        let what = format!("idle {}", self.access);
        let mut notes = Vec::new();
        if !self.all_were_held() {
            let lost = self.connections.saturating_sub(self.answered);
            notes.push(format!("{what}: {lost} connections were lost while they were idle"));
        }
        if !self.steady {
            notes.push(format!("{what}: the memory did not come to rest"));
        }
        notes
    }
}

pub(super) fn idle_table(reports: &[&IdleReport]) -> String {
    const KIB_PER_MIB: f64 = 1024.0;
    let mut text = String::from(
        "| idle | connections | KiB/connection | resident MiB before / after |\n|---|--:|--:|--:|\n",
    );
    for report in reports {
        let _ = writeln!(
            text,
            "| {} | {} | {:.1} | {:.1} / {:.1} |",
            report.access,
            report.connections,
            report.resident_kib_per_connection,
            report.resident_before_kib as f64 / KIB_PER_MIB,
            report.resident_after_kib as f64 / KIB_PER_MIB,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::idle::Resident;
    use crate::report::{Report, tables};

    fn usage() -> Usage {
        Usage {
            elapsed: Duration::from_secs(10),
            cpu_us: [("bandar".to_owned(), 200_000)].into(),
            generator_us: 100_000,
            machine_busy_percent: 90.0,
        }
    }

    fn connect(tally: Tally) -> Report {
        Report::Connect(ConnectReport::new(Access::ChosenPassword, 64, tally, &usage()))
    }

    fn idle(answered: u32, steady: bool) -> Report {
        let before = Resident { kib: 102_400, steady: true };
        let after = Resident { kib: 153_600, steady };
        let outcome = Outcome { connections: 5_000, before, after, answered };
        Report::Idle(IdleReport::new(Access::Tls, &outcome, &usage()))
    }

    #[test]
    fn each_kind_has_its_table() {
        let reports = [idle(5_000, true), connect(Tally { connections: 2_000, ..Tally::default() })];
        assert!(reports.iter().all(Report::is_good));
        let text = tables(&reports);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[2], "| chosen-password | 200 | 0.00 / 0.00 | 100.0 | - | - | 100.0 | 50.0 |");
        assert_eq!(lines[3], "");
        assert_eq!(lines[6], "| tls | 5000 | 10.2 | 100.0 / 150.0 |");
        assert_eq!(lines.len(), 7, "nothing to note");
        let line = serde_json::to_value(&reports[1]).unwrap();
        assert_eq!((&line["profile"], &line["access"]), (&"connect".into(), &"chosen-password".into()));
        assert_eq!(line["cpu_us_per_connection"]["platform"], 100.0);
    }

    #[test]
    fn whatever_is_wrong_is_noted() {
        let tally = Tally {
            refused: [(3, 7)].into(),
            failed: 2,
            first_failure: Some("no route".to_owned()),
            ..Tally::default()
        };
        let reports = [connect(tally), idle(4_990, false)];
        assert!(!reports.iter().any(Report::is_good));
        let text = tables(&reports);
        for note in [
            "connect chosen-password: not a single connection",
            "connect chosen-password: 7 clients refused with code 3",
            "connect chosen-password: 2 clients without a CONNACK",
            "connect chosen-password: the first failed because: no route",
            "idle tls: 10 connections were lost while they were idle",
            "idle tls: the memory did not come to rest",
        ] {
            assert!(text.contains(note), "{note} in {text}");
        }
    }
}
