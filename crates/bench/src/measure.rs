//! Makes one measurement: sets the platform up for it, runs it, takes back what opens doors, and writes the report.

use std::future::Future;
use std::sync::Arc;

use anyhow::Result;

use crate::cli::Args;
use crate::door::Door;
use crate::idle::Patience;
use crate::load::{self, Endpoint};
use crate::platform::Platform;
use crate::processes::Meter;
use crate::profile::{Access, Measurement, Profile, Transport};
use crate::report::{self, ConnectReport, IdleReport, LoadReport, Report};
use crate::rest::{Application, Login};
use crate::{commands, connect, idle, limits, verify};

/// `None` when `interrupted` came before there was anything to report.
pub(crate) async fn run(
    args: &Args,
    platform: &Platform,
    measurement: Measurement,
    interrupted: impl Future<Output = ()>,
) -> Result<Option<Report>> {
    match measurement {
        Measurement::Load(profile) => {
            run_load(args, platform, profile, interrupted).await.map(Report::Load).map(Some)
        }
        Measurement::Connect(access) => {
            run_connect(args, platform, access, interrupted).await.map(Report::Connect).map(Some)
        }
        Measurement::Commands(way, rate) => {
            Ok(commands::run(args, platform, way, rate, interrupted).await?.map(Report::Commands))
        }
        Measurement::Idle(access) => {
            Ok(run_idle(args, platform, access, interrupted).await?.map(Report::Idle))
        }
    }
}

async fn run_load(
    args: &Args,
    platform: &Platform,
    profile: Profile,
    interrupted: impl Future<Output = ()>,
) -> Result<LoadReport> {
    let rest = &platform.rest;
    limits::open_files_for(profile.connections().into())?;
    let application = rest.create_application(&format!("bench {}", profile.name())).await?;
    let base_ms = report::base_ms(chrono::Utc::now());
    let endpoints = rest.create_endpoints(&application.version, profile.connections(), base_ms).await?;
    let logins = match profile.transport() {
        Transport::Mqtt => {
            let tag = format!("bench-{}", application.name);
            rest.create_logins(&tag, None, profile.connections()).await?
        }
        Transport::Http => Vec::new(),
    };
    let credentials: Vec<String> = logins.iter().map(|login| login.path.clone()).collect();
    let result = load_and_verify(args, platform, profile, &application, endpoints, logins, interrupted).await;
    let withdrawn = rest.delete_all(&credentials).await;
    let report = result?;
    withdrawn?;
    Ok(report)
}

async fn load_and_verify(
    args: &Args,
    platform: &Platform,
    profile: Profile,
    application: &Application,
    endpoints: Vec<Endpoint>,
    logins: Vec<Login>,
    interrupted: impl Future<Output = ()>,
) -> Result<LoadReport> {
    let plan = load::Plan {
        profile,
        warm_up: args.warm_up(),
        measured: args.measured(),
        drain: args.drain(),
        messages_max: args.messages_max,
        rate: args.rate,
        progress: args.progress,
        gateways: match profile.transport() {
            Transport::Mqtt => platform.mqtt(),
            Transport::Http => vec![platform.http()],
        },
        app_version: application.version.clone(),
        pids: platform.pids.clone(),
    };
    let outcome = load::run(plan, endpoints, logins, interrupted).await?;
    if let Some(file) = &args.ledger {
        for device in &outcome.devices {
            let (endpoint, log) = (&device.endpoint, device.log.borrow());
            let times = log.receipts.iter().map(|n| (endpoint.id.as_str(), endpoint.base_ms + i64::from(n)));
            report::write_ledger(file, times)?;
        }
    }
    let books = verify::verify(&platform.rest, &application.name, &outcome.devices).await?;
    Ok(LoadReport::new(profile, args.rate, &application.name, &outcome.measured, outcome.totals, books))
}

async fn run_connect(
    args: &Args,
    platform: &Platform,
    access: Access,
    interrupted: impl Future<Output = ()>,
) -> Result<ConnectReport> {
    limits::open_files_for(args.connecting.into())?;
    let door = Arc::new(Door::prepare(platform, access).await?);
    let plan = connect::Plan {
        warm_up: args.warm_up(),
        measured: args.measured(),
        connecting: args.connecting,
        pids: platform.pids.clone(),
    };
    let result = connect::run(&plan, door.clone(), interrupted).await;
    let withdrawn = door.withdraw(&platform.rest).await;
    let (tally, usage) = result?;
    withdrawn?;
    Ok(ConnectReport::new(access, args.connecting, tally, &usage))
}

async fn run_idle(
    args: &Args,
    platform: &Platform,
    access: Access,
    interrupted: impl Future<Output = ()>,
) -> Result<Option<IdleReport>> {
    limits::open_files_for(args.idle_connections.into())?;
    let door = Door::prepare(platform, access).await?;
    let plan = idle::Plan {
        connections: args.idle_connections,
        connecting: usize::try_from(args.connecting)?,
        pids: platform.pids.clone(),
        patience: Patience::DEFAULT,
    };
    let meter = Meter::start(&plan.pids)?;
    let result = tokio::select! {
        result = idle::run(&plan, &door) => result.map(Some),
        () = interrupted => Ok(None),
    };
    let usage = meter.stop()?;
    let withdrawn = door.withdraw(&platform.rest).await;
    let outcome = result?;
    withdrawn?;
    Ok(outcome.map(|outcome| IdleReport::new(access, &outcome, &usage)))
}
