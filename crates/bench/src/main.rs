//! `bench`: the load generator of the platform, and its judge.
//!
//! It makes devices publish telemetry, measures what that costs, reads everything back over REST and says whether every
//! receipt was true. It also measures how fast clients get in, and how much memory they cost while they say nothing. See the
//! crate's README for the figures and how they are taken.

mod bits;
mod cli;
mod commands;
mod connect;
mod dial;
mod door;
#[cfg(test)]
mod fake;
mod histogram;
mod idle;
mod limits;
mod load;
mod measure;
mod mqtt;
mod platform;
mod processes;
mod profile;
mod report;
mod rest;
mod sample;
mod tls;
mod verify;

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::Args;
use crate::platform::Platform;
use crate::report::Report;

/// Receipts without data, or no receipts; clients that were not let in, or not held.
const EXIT_NOT_GOOD: u8 = 1;
/// It could not be measured.
const EXIT_FAILED: u8 = 2;

fn main() -> ExitCode {
    let args = Args::parse();
    // One thread: the generator's share of the machine stays small and known.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(run(&args)));
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_NOT_GOOD),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "bench: {error:#}");
            ExitCode::from(EXIT_FAILED)
        }
    }
}

/// True when all results are good.
async fn run(args: &Args) -> Result<bool> {
    let mut interrupt = Interrupt::new()?;
    let mut stage = Stage { args, platform: None };
    let mut reports = Vec::new();
    let measured = measure_all(args, &mut stage, &mut interrupt, &mut reports).await;
    let closed = stage.clear().await;
    // What was measured before something failed is worth seeing.
    print(args, &reports)?;
    measured?;
    closed?;
    Ok(reports.iter().all(Report::is_good))
}

async fn measure_all(
    args: &Args,
    stage: &mut Stage<'_>,
    interrupt: &mut Interrupt,
    reports: &mut Vec<Report>,
) -> Result<()> {
    for measurement in args.measurements() {
        let platform = stage.platform(measurement.wants_a_fresh_platform()).await?;
        if let Some(report) = measure::run(args, platform, measurement, interrupt.wait()).await? {
            report::keep(&report, &args.output)?;
            reports.push(report);
        }
        if interrupt.came {
            break;
        }
    }
    Ok(())
}

/// Where measurements take place, one after the other.
struct Stage<'a> {
    args: &'a Args,
    platform: Option<Platform>,
}

impl Stage<'_> {
    /// The platform. A fresh one has not been measured before, unless it is one that was running already.
    async fn platform(&mut self, fresh: bool) -> Result<&Platform> {
        if fresh && self.platform.as_ref().is_some_and(Platform::is_own) {
            self.clear().await?;
        }
        let platform = match self.platform.take() {
            Some(platform) => platform,
            None => Platform::open(self.args).await?,
        };
        Ok(self.platform.insert(platform))
    }

    async fn clear(&mut self) -> Result<()> {
        match self.platform.take() {
            Some(platform) => platform.close().await,
            None => Ok(()),
        }
    }
}

fn print(args: &Args, reports: &[Report]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if !args.json {
        out.write_all(report::tables(reports).as_bytes())?;
        return Ok(());
    }
    for report in reports {
        writeln!(out, "{}", serde_json::to_string(report)?)?;
    }
    Ok(())
}

/// SIGINT and SIGTERM end a measurement early; what a load did so far is still checked and reported.
struct Interrupt {
    interrupt: Signal,
    terminate: Signal,
    came: bool,
}

impl Interrupt {
    fn new() -> Result<Self> {
        let (interrupt, terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        Ok(Self { interrupt, terminate, came: false })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
        self.came = true;
    }
}
