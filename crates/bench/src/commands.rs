//! How long a command takes: from an application to a device and back with the result. Through the platform (REST, ledger,
//! push, result, REST) and, to compare, through mosquitto between two clients, which stores nothing.

mod client;
mod mosquitto;

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::LocalSet;

use crate::cli::Args;
use crate::dial::Sources;
use crate::histogram::Histogram;
use crate::platform::Platform;
use crate::processes::{Meter, Usage};
use crate::report::CommandsReport;
use crate::{limits, report};

use self::client::{Client, Session};
use self::mosquitto::Mosquitto;

/// Devices that commands go to, in turn.
const DEVICES: u32 = 200;
/// A command that takes longer has failed.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);
/// At one command a second ten seconds tell little.
const MEASURED_MIN_COMMANDS: u32 = 20;
/// Commands that wait for their results at once; more would measure this program.
const IN_FLIGHT_MAX: usize = 5_000;

/// What commands go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// REST, the ledger, a push over MQTT, a result over MQTT, REST.
    Bandar,
    /// A broker without a ledger, between two MQTT clients.
    Mosquitto,
}

impl Way {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Bandar => "bandar",
            Self::Mosquitto => "mosquitto",
        }
    }
}

/// What became of the commands.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Answered rightly, in the measured seconds.
    pub(crate) commands: u64,
    /// Of those, from when the command was due.
    pub(crate) latencies: Histogram,
    /// Warm-up included, as below.
    pub(crate) invoked: u64,
    pub(crate) failed: u64,
    pub(crate) first_failure: Option<String>,
    /// What the ledger holds as executed; none where there is no ledger.
    pub(crate) executed: Option<u64>,
}

impl Tally {
    fn fail(&mut self, error: &anyhow::Error) {
        self.failed += 1;
        self.first_failure.get_or_insert_with(|| format!("{error:#}"));
    }
}

/// None when mosquitto is not there, or when `interrupted` came first.
pub(crate) async fn run(
    args: &Args,
    platform: &Platform,
    way: Way,
    rate: u32,
    interrupted: impl Future<Output = ()>,
) -> Result<Option<CommandsReport>> {
    limits::open_files_for(2 * u64::from(DEVICES) + IN_FLIGHT_MAX as u64)?;
    let local = LocalSet::new();
    let measuring = async {
        match way {
            Way::Bandar => through_the_platform(args, platform, rate).await.map(Some),
            Way::Mosquitto => through_mosquitto(args, rate).await,
        }
    };
    let result = tokio::select! {
        result = local.run_until(measuring) => result?,
        () = interrupted => None,
    };
    Ok(result.map(|(tally, usage)| CommandsReport::new(way, rate, DEVICES, tally, &usage)))
}

async fn through_the_platform(args: &Args, platform: &Platform, rate: u32) -> Result<(Tally, Usage)> {
    let rest = &platform.rest;
    let application = rest.create_application("bench commands").await?;
    let base_ms = report::base_ms(chrono::Utc::now());
    let endpoints = rest.create_endpoints(&application.version, DEVICES, base_ms).await?;
    let logins = rest.create_logins(&format!("bench-{}", application.name), None, DEVICES).await?;
    let credentials: Vec<String> = logins.iter().map(|login| login.path.clone()).collect();

    let gateways = platform.mqtt();
    let sources = Sources::default();
    let mut devices = Vec::new();
    for (index, (endpoint, login)) in endpoints.iter().zip(&logins).enumerate() {
        let gateway = *gateways.get(index % gateways.len()).context("no gateway is known")?;
        let resources = format!("kp1/{}/cex/{}", application.version, endpoint.token);
        let device =
            Client::connect(&sources, gateway, &format!("bench-{}", endpoint.id), Some(login)).await?;
        // From its first message on the endpoint belongs to the connection.
        device.publish(&format!("{resources}/command/1"), b"{}")?;
        let result_topic = format!("{resources}/result/bench");
        device.on_message(move |session, payload| execute(session, &result_topic, payload));
        devices.push(device);
    }
    for device in &devices {
        device.acknowledged().await.context("a device's first message has no acknowledgement")?;
    }
    let paths: Rc<[String]> =
        endpoints.iter().map(|it| format!("/cex/api/v1/endpoints/{}/commands/bench", it.id)).collect();
    let caller = async |number: u32| {
        let path = paths.get(number as usize % paths.len()).context("no endpoint")?;
        let (status, body) = rest.invoke(path, ANSWERED_WITHIN, &json!({ "number": number })).await?;
        let right = status == 200 && body == json!({ "number": number });
        ensure!(right, "the command was answered with {status} {body}");
        Ok(())
    };
    let measured = call(args, &platform.pids, rate, caller).await;
    drop(devices);
    let withdrawn = rest.delete_all(&credentials).await;
    let (mut tally, usage) = measured?;
    withdrawn?;
    tally.executed = Some(rest.count_executed(&application.name).await?);
    Ok((tally, usage))
}

/// What a device does: it answers each command with the command's own payload.
fn execute(device: &Session, result_topic: &str, payload: &[u8]) -> Result<()> {
    // The confirmation of a result has no payload.
    if payload.is_empty() {
        return Ok(());
    }
    let commands: Vec<Value> = serde_json::from_slice(payload)?;
    let results: Vec<_> = commands
        .iter()
        .filter(|command| !command["payload"].is_null())
        .map(|command| json!({ "id": command["id"], "statusCode": 200, "payload": command["payload"] }))
        .collect();
    if results.is_empty() {
        return Ok(());
    }
    device.publish(result_topic, &serde_json::to_vec(&results)?)
}

async fn through_mosquitto(args: &Args, rate: u32) -> Result<Option<(Tally, Usage)>> {
    let Some(broker) = Mosquitto::start().await? else { return Ok(None) };
    let sources = Sources::default();
    let mut devices = Vec::new();
    for index in 0..DEVICES {
        let device = Client::connect(&sources, broker.address, &format!("device-{index}"), None).await?;
        device.subscribe(&format!("cmd/{index}/req"))?;
        let response_topic = format!("cmd/{index}/resp");
        device.on_message(move |session, payload| session.publish(&response_topic, payload));
        devices.push(device);
    }
    let application = Client::connect(&sources, broker.address, "application", None).await?;
    application.subscribe("cmd/+/resp")?;
    let waiting: Rc<RefCell<HashMap<Vec<u8>, oneshot::Sender<()>>>> = Rc::default();
    application.on_message({
        let waiting = waiting.clone();
        move |_, payload| {
            if let Some(told) = waiting.borrow_mut().remove(payload) {
                // Nobody waits any more for what came too late.
                let _ = told.send(());
            }
            Ok(())
        }
    });
    for client in devices.iter().chain([&application]) {
        client.acknowledged().await.context("a subscription was not granted")?;
    }
    let caller = async |number: u32| {
        let payload = serde_json::to_vec(&json!({ "number": number }))?;
        let (tell, told) = oneshot::channel();
        waiting.borrow_mut().insert(payload.clone(), tell);
        application.publish(&format!("cmd/{}/req", number % DEVICES), &payload)?;
        tokio::time::timeout(ANSWERED_WITHIN, told).await.context("no response in time")??;
        Ok(())
    };
    let measured = call(args, &broker.pids(), rate, caller).await?;
    drop((devices, application));
    broker.stop().await?;
    Ok(Some(measured))
}

/// Calls at fixed times, whether answers come or not; latencies count from when a call was due.
async fn call(
    args: &Args,
    pids: &[u32],
    rate: u32,
    caller: impl AsyncFn(u32) -> Result<()>,
) -> Result<(Tally, Usage)> {
    let every = Duration::from_secs(1) / rate;
    let measured = args.measured().max(every * MEASURED_MIN_COMMANDS);
    let start = Instant::now();
    let (from, to) = (start + args.warm_up(), start + args.warm_up() + measured);
    let tally = RefCell::new(Tally::default());
    let one = async |number: u32, due: Instant| match caller(number).await {
        Ok(()) if (from..to).contains(&due) => {
            let mut tally = tally.borrow_mut();
            tally.commands += 1;
            tally.latencies.record(due.elapsed());
        }
        Ok(()) => {}
        Err(error) => tally.borrow_mut().fail(&error),
    };
    let mut meter = None;
    let mut running = FuturesUnordered::new();
    let mut number = 0;
    loop {
        let due = start + every * number;
        if meter.is_none() && due >= from {
            meter = Some(Meter::start(pids)?);
        }
        if due >= to {
            break;
        }
        // What runs goes on while the next one is waited for.
        let next = tokio::time::sleep_until(due.into());
        drive(&mut running, next).await;
        if running.len() >= IN_FLIGHT_MAX {
            tally.borrow_mut().fail(&anyhow::anyhow!("{IN_FLIGHT_MAX} commands wait for their results"));
        } else {
            running.push(one(number, due));
        }
        tally.borrow_mut().invoked += 1;
        number += 1;
    }
    let usage = meter.context("nothing was measured")?.stop()?;
    while running.next().await.is_some() {}
    drop(running);
    Ok((tally.into_inner(), usage))
}

/// Polls what runs until the time has come.
async fn drive<F: Future<Output = ()>>(running: &mut FuturesUnordered<F>, until: tokio::time::Sleep) {
    let mut until = std::pin::pin!(until);
    loop {
        if running.is_empty() {
            return until.await;
        }
        tokio::select! {
            biased;
            () = &mut until => return,
            _ = running.next() => {}
        }
    }
}
