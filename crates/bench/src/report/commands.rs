//! The results of commands.

use std::fmt::Write as _;

use serde::Serialize;

use super::{Cpu, Header, round};
use crate::commands::{Tally, Way};
use crate::processes::Usage;

/// How long commands took, there and back: one line of the results file.
#[derive(Debug, Serialize)]
pub(crate) struct CommandsReport {
    #[serde(flatten)]
    header: Header,
    /// What the commands went through.
    way: &'static str,
    commands_per_second: u32,
    devices: u32,
    commands: u64,
    answer_p50_ms: f64,
    answer_p99_ms: f64,
    answer_max_ms: f64,
    cpu_us_per_command: Cpu,
    generator_cpu_us_per_command: f64,
    /// Of the generator's one processor.
    generator_busy_percent: f64,
    /// Warm-up included, as all that follows.
    invoked: u64,
    failed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_failure: Option<String>,
    /// What the ledger holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    executed: Option<u64>,
}

impl CommandsReport {
    pub(crate) fn new(way: Way, rate: u32, devices: u32, tally: Tally, usage: &Usage) -> Self {
        let (cpu_us_per_command, generator) = Cpu::of(usage, tally.commands);
        let elapsed_us = usage.elapsed.as_secs_f64() * 1e6;
        Self {
            header: Header::new("commands", usage),
            way: way.name(),
            commands_per_second: rate,
            devices,
            commands: tally.commands,
            answer_p50_ms: tally.latencies.quantile_ms(0.5),
            answer_p99_ms: tally.latencies.quantile_ms(0.99),
            answer_max_ms: tally.latencies.max_ms(),
            cpu_us_per_command,
            generator_cpu_us_per_command: generator,
            generator_busy_percent: round(100.0 * usage.generator_us as f64 / elapsed_us.max(1.0), 1),
            invoked: tally.invoked,
            failed: tally.failed,
            first_failure: tally.first_failure,
            executed: tally.executed,
        }
    }

    /// Every command has its own result, and the ledger, where there is one, holds exactly those.
    pub(super) fn all_were_executed(&self) -> bool {
        self.commands > 0 && self.failed == 0 && self.executed.is_none_or(|executed| executed == self.invoked)
    }

    pub(super) fn notes(&self) -> Vec<String> {
        let what = format!("commands {} at {}/s", self.way, self.commands_per_second);
        let mut notes = Vec::new();
        if self.commands == 0 {
            notes.push(format!("{what}: not a single result"));
        }
        if self.failed > 0 {
            notes.push(format!("{what}: {} of {} commands failed", self.failed, self.invoked));
        }
        if let Some(reason) = &self.first_failure {
            notes.push(format!("{what}: the first failed because: {reason}"));
        }
        if let Some(executed) = self.executed.filter(|executed| *executed != self.invoked) {
            notes.push(format!("{what}: the ledger holds {executed} as executed, of {}", self.invoked));
        }
        notes
    }
}

pub(super) fn table(reports: &[&CommandsReport]) -> String {
    let mut text = String::from(
        "| commands | per second | p50 / p99 / max ms | CPU µs/command: bandar | nats-server | postgres \
         | all | generator |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for report in reports {
        let _ = writeln!(
            text,
            "| {} | {} | {:.2} / {:.2} / {:.1} |{} {:.1} |",
            report.way,
            report.commands_per_second,
            report.answer_p50_ms,
            report.answer_p99_ms,
            report.answer_max_ms,
            report.cpu_us_per_command.cells(),
            report.generator_cpu_us_per_command,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::report::{Report, tables};

    fn report(way: Way, tally: Tally) -> Report {
        let usage = Usage {
            elapsed: Duration::from_secs(10),
            cpu_us: [(way.name().to_owned(), 200_000)].into(),
            generator_us: 100_000,
            machine_busy_percent: 90.0,
        };
        Report::Commands(CommandsReport::new(way, 100, 200, tally, &usage))
    }

    #[test]
    fn both_ways_stand_in_one_table() {
        let good = || Tally { commands: 1_000, invoked: 1_200, ..Tally::default() };
        let bandar = report(Way::Bandar, Tally { executed: Some(1_200), ..good() });
        let reports = [bandar, report(Way::Mosquitto, good())];
        assert!(reports.iter().all(Report::is_good));
        let text = tables(&reports);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[2], "| bandar | 100 | 0.00 / 0.00 / 0.0 | 200.0 | - | - | 200.0 | 100.0 |");
        assert_eq!(lines[3], "| mosquitto | 100 | 0.00 / 0.00 / 0.0 | - | - | - | 200.0 | 100.0 |");
        assert_eq!(lines.len(), 4, "nothing to note");
    }

    #[test]
    fn whatever_is_wrong_is_noted() {
        let tally = Tally {
            invoked: 10,
            failed: 1,
            first_failure: Some("202".to_owned()),
            executed: Some(9),
            ..Tally::default()
        };
        let reports = [report(Way::Bandar, tally)];
        assert!(!reports[0].is_good());
        let text = tables(&reports);
        for note in [
            "commands bandar at 100/s: not a single result",
            "commands bandar at 100/s: 1 of 10 commands failed",
            "commands bandar at 100/s: the first failed because: 202",
            "commands bandar at 100/s: the ledger holds 9 as executed, of 10",
        ] {
            assert!(text.contains(note), "{note} in {text}");
        }
    }
}
