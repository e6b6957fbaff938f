//! `bench`: the load generator of the platform, and its judge.
//!
//! It makes devices publish telemetry, measures what that costs, reads everything back over REST and says whether every
//! receipt was true. See the crate's README for the figures and how they are taken.

mod bits;
mod cli;
mod histogram;
mod load;
mod mqtt;
mod platform;
mod processes;
mod profile;
mod report;
mod rest;
mod sample;
mod verify;

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::Args;
use crate::load::Plan;
use crate::platform::Platform;
use crate::profile::Profile;
use crate::report::Report;

/// Receipts without data, or no receipts.
const EXIT_UNBALANCED: u8 = 1;
/// The load could not be run.
const EXIT_FAILED: u8 = 2;

fn main() -> ExitCode {
    let args = Args::parse();
    // One thread: the generator's share of the machine stays small and known.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(run(&args)));
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_UNBALANCED),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "bench: {error:#}");
            ExitCode::from(EXIT_FAILED)
        }
    }
}

/// True when the books of every load balance.
async fn run(args: &Args) -> Result<bool> {
    let mut interrupt = Interrupt::new()?;
    let platform = Platform::open(args).await?;
    let reports = run_loads(args, &platform, &mut interrupt).await;
    let closed = platform.close().await;
    let reports = reports?;
    print(args, &reports)?;
    closed?;
    Ok(reports.iter().all(Report::balanced))
}

async fn run_loads(args: &Args, platform: &Platform, interrupt: &mut Interrupt) -> Result<Vec<Report>> {
    let mut reports = Vec::new();
    for profile in args.profiles() {
        let report = run_load(args, platform, profile, interrupt).await?;
        report::keep(&report, &args.output)?;
        reports.push(report);
        if interrupt.came {
            break;
        }
    }
    Ok(reports)
}

async fn run_load(
    args: &Args,
    platform: &Platform,
    profile: Profile,
    interrupt: &mut Interrupt,
) -> Result<Report> {
    let rest = &platform.rest;
    let application = rest.create_application(&format!("bench {}", profile.name())).await?;
    let base_ms = report::base_ms(chrono::Utc::now());
    let endpoints = rest.create_endpoints(&application.version, profile.connections(), base_ms).await?;
    let plan = Plan {
        profile,
        warm_up: args.warm_up(),
        measured: args.measured(),
        drain: args.drain(),
        messages_max: args.messages_max,
        rate: args.rate,
        progress: args.progress,
        gateways: platform.gateways(profile.transport()),
        app_version: application.version,
        pids: platform.pids.clone(),
    };
    let outcome = load::run(plan, endpoints, interrupt.wait()).await?;
    if let Some(file) = &args.ledger {
        for device in &outcome.devices {
            let (endpoint, log) = (&device.endpoint, device.log.borrow());
            let times = log.receipts.iter().map(|n| (endpoint.id.as_str(), endpoint.base_ms + i64::from(n)));
            report::write_ledger(file, times)?;
        }
    }
    let books = verify::verify(rest, &application.name, &outcome.devices).await?;
    Ok(Report::new(profile, args.rate, &application.name, &outcome.measured, outcome.totals, books))
}

fn print(args: &Args, reports: &[Report]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if !args.json {
        out.write_all(report::table(reports).as_bytes())?;
        return Ok(());
    }
    for report in reports {
        writeln!(out, "{}", serde_json::to_string(report)?)?;
    }
    Ok(())
}

/// SIGINT and SIGTERM end the load early; what it did so far is still checked and reported.
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
