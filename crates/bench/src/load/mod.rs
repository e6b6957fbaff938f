//! Makes a load: the devices of a profile, their shared totals, and the times at which it starts, counts and ends.

mod http;
mod mqtt;
mod pace;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::io::Write;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;
use tokio::task::{JoinSet, LocalSet};

use crate::bits::Bits;
use crate::histogram::Histogram;
use crate::processes::{Meter, Usage};
use crate::profile::{Profile, Transport};
use crate::rest::Login;

/// How often `--progress` prints a line.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// A device that waits this long for any receipt has been left alone by the gateway: it connects anew, which is counted.
/// The gateway's own deadline for a message is 10 s.
const STALL_AFTER: Duration = Duration::from_secs(30);

/// Waiting times between attempts to connect.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// What a load needs to know.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) profile: Profile,
    pub(crate) warm_up: Duration,
    pub(crate) measured: Duration,
    pub(crate) drain: Duration,
    pub(crate) messages_max: u32,
    /// Messages per second of all devices together.
    pub(crate) rate: Option<u32>,
    pub(crate) progress: bool,
    /// The gateways' addresses for the profile's transport; devices are dealt out to them in turn.
    pub(crate) gateways: Vec<SocketAddr>,
    pub(crate) app_version: String,
    /// The processes whose CPU times are measured.
    pub(crate) pids: Vec<u32>,
}

/// The digital twin for which a device speaks.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    pub(crate) id: String,
    pub(crate) token: String,
    /// Message `n` carries the timestamp `base_ms + n`, in milliseconds since 1970.
    pub(crate) base_ms: i64,
}

/// What one device knows of its messages, which are numbered from 0.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) sent: u32,
    /// The messages with a positive receipt.
    pub(crate) receipts: Bits,
}

/// One device and its log.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) endpoint: Endpoint,
    pub(crate) log: RefCell<Log>,
    /// What it shows when it connects over MQTT.
    login: Option<Login>,
    gateway: SocketAddr,
    client_id: String,
    pace: RefCell<pace::Pace>,
}

/// Counts over all devices since the load started.
#[derive(Debug, Default, Clone, Serialize)]
pub(crate) struct Totals {
    /// Messages, each counted once however often it was sent.
    pub(crate) sent: u64,
    /// Positive receipts.
    pub(crate) receipts: u64,
    /// `/status` responses.
    pub(crate) status_responses: u64,
    /// Messages that the platform refused for good, by status.
    pub(crate) refused: BTreeMap<u16, u64>,
    /// Failures that it reported and that passed: the message was sent again.
    pub(crate) failed: BTreeMap<u16, u64>,
    /// Connections that were lost, or refused.
    pub(crate) reconnects: u64,
    /// Connections that were given up because the gateway neither answered nor closed.
    pub(crate) stalls: u64,
    /// Messages that got a positive receipt and an error: the receipt does not count.
    pub(crate) contradictions: u64,
    /// The first words that came with each status.
    pub(crate) reasons: BTreeMap<u16, String>,
    /// Why the first lost connection was lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) first_loss: Option<String>,
}

/// What the devices of a load share.
struct Load {
    plan: Plan,
    remaining: Cell<u32>,
    stopping: Cell<bool>,
    recording: Cell<bool>,
    totals: RefCell<Totals>,
    latencies: RefCell<Histogram>,
}

/// A message on its way.
struct Sent {
    number: u32,
    packet_id: u16,
    /// When it was due to be sent: latency counts from here.
    due: Instant,
    /// The status of an `/error` that came before its acknowledgement.
    error: Option<u16>,
}

/// What the measured seconds showed.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) receipts: u64,
    pub(crate) latencies: Histogram,
    pub(crate) usage: Usage,
}

/// The result of a load.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) measured: Measured,
    pub(crate) totals: Totals,
    pub(crate) devices: Vec<Rc<Device>>,
}

impl Load {
    /// The next message's number and the time at which it is due, when the device may send one more now.
    fn take(&self, device: &Device) -> Option<(u32, Instant)> {
        if self.stopping.get() || self.remaining.get() == 0 {
            return None;
        }
        let due = device.pace.borrow_mut().next_due()?;
        self.remaining.set(self.remaining.get() - 1);
        let mut log = device.log.borrow_mut();
        let number = log.sent;
        log.sent += 1;
        self.totals.borrow_mut().sent += 1;
        Some((number, due))
    }

    /// True when no device will get another message.
    fn is_over(&self) -> bool {
        self.stopping.get() || self.remaining.get() == 0
    }

    fn note_receipt(&self, device: &Device, sent: &Sent) {
        device.log.borrow_mut().receipts.insert(sent.number);
        self.totals.borrow_mut().receipts += 1;
        if self.recording.get() {
            self.latencies.borrow_mut().record(sent.due.elapsed());
        }
    }

    fn note_refusal(&self, status: u16) {
        *self.totals.borrow_mut().refused.entry(status).or_default() += 1;
    }

    fn note_failure(&self, status: u16) {
        *self.totals.borrow_mut().failed.entry(status).or_default() += 1;
    }

    /// Keeps the first words of each status: they are what one wants to know when anything went wrong.
    fn note_reason(&self, status: u16, words: &[u8]) {
        let mut totals = self.totals.borrow_mut();
        totals.reasons.entry(status).or_insert_with(|| String::from_utf8_lossy(words).into_owned());
    }

    fn note_contradiction(&self, device: &Device, number: u32) {
        if device.log.borrow_mut().receipts.remove(number) {
            let mut totals = self.totals.borrow_mut();
            totals.receipts -= 1;
            totals.contradictions += 1;
        }
    }

    fn note_lost_connection(&self, error: &anyhow::Error) {
        let mut totals = self.totals.borrow_mut();
        totals.reconnects += 1;
        totals.first_loss.get_or_insert_with(|| format!("{error:#}"));
    }
}

/// Runs the load until its time is over or `interrupted` is, and waits for the receipts of what is in flight. Each device has a
/// login of its own, or none does.
pub(crate) async fn run(
    plan: Plan,
    endpoints: Vec<Endpoint>,
    logins: Vec<Login>,
    interrupted: impl Future<Output = ()>,
) -> Result<Outcome> {
    let devices: Vec<Rc<Device>> = deal(&plan, endpoints, logins);
    let load = Rc::new(Load {
        remaining: Cell::new(plan.messages_max),
        plan,
        stopping: Cell::new(false),
        recording: Cell::new(false),
        totals: RefCell::default(),
        latencies: RefCell::default(),
    });
    let local = LocalSet::new();
    let measured = local
        .run_until(async {
            let mut tasks = JoinSet::new();
            for device in &devices {
                let (load, device) = (load.clone(), device.clone());
                match load.plan.profile.transport() {
                    Transport::Mqtt => tasks.spawn_local(mqtt::run(load, device)),
                    Transport::Http => tasks.spawn_local(http::run(load, device)),
                };
            }
            if load.plan.progress {
                tokio::task::spawn_local(print_progress(load.clone()));
            }
            measure(&load, &mut tasks, interrupted).await
        })
        .await?;
    let totals = load.totals.borrow().clone();
    Ok(Outcome { measured, totals, devices })
}

fn deal(plan: &Plan, endpoints: Vec<Endpoint>, logins: Vec<Login>) -> Vec<Rc<Device>> {
    let count = u32::try_from(endpoints.len()).unwrap_or(u32::MAX).max(1);
    let gateways = plan.gateways.iter().cycle();
    let logins = logins.into_iter().map(Some).chain(std::iter::repeat(None));
    (0..)
        .zip(endpoints)
        .zip(logins)
        .zip(gateways)
        .map(|(((index, endpoint), login), gateway)| {
            Rc::new(Device {
                log: RefCell::default(),
                login,
                gateway: *gateway,
                client_id: format!("bench-{}", endpoint.id),
                pace: RefCell::new(pace::Pace::new(plan.rate, count, index)),
                endpoint,
            })
        })
        .collect()
}

async fn measure(
    load: &Load,
    tasks: &mut JoinSet<()>,
    interrupted: impl Future<Output = ()>,
) -> Result<Measured> {
    let mut interrupted = std::pin::pin!(interrupted);
    let mut over = tokio::select! {
        () = &mut interrupted => true,
        () = tokio::time::sleep(load.plan.warm_up) => false,
    };
    let receipts_before = load.totals.borrow().receipts;
    let meter = Meter::start(&load.plan.pids)?;
    load.recording.set(true);
    let end = tokio::time::sleep(load.plan.measured);
    let mut end = std::pin::pin!(end);
    while !over {
        over = tokio::select! {
            () = &mut interrupted => true,
            () = &mut end => true,
            ended = tasks.join_next() => ended.is_none(),
        };
    }
    load.recording.set(false);
    let receipts = load.totals.borrow().receipts.saturating_sub(receipts_before);
    let usage = meter.stop()?;
    load.stopping.set(true);
    let _ = tokio::time::timeout(load.plan.drain, async { while tasks.join_next().await.is_some() {} }).await;
    let latencies = load.latencies.borrow().clone();
    Ok(Measured { receipts, latencies, usage })
}

/// Ends with the load, whose tasks are dropped together.
async fn print_progress(load: Rc<Load>) {
    loop {
        let line = serde_json::json!({ "progress": *load.totals.borrow() });
        // A reader that went away is no reason to end the load.
        let _ = writeln!(std::io::stdout().lock(), "{line}");
        tokio::time::sleep(PROGRESS_EVERY).await;
    }
}

/// Messages that wait for their receipt, in the order in which they were sent.
type InFlight = VecDeque<Sent>;

#[cfg(test)]
mod tests;
