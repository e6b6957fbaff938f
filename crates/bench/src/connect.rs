//! How many connections per second the gateway takes: clients connect, are told yes, leave and come back as others.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinSet;

use crate::dial::{self, Refused};
use crate::door::Door;
use crate::histogram::Histogram;
use crate::processes::{Meter, Usage};

/// After a connection that failed.
const PAUSE: Duration = Duration::from_millis(50);

/// What the measurement needs to know.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) warm_up: Duration,
    pub(crate) measured: Duration,
    /// Clients that are about to connect at the same time.
    pub(crate) connecting: u32,
    /// The processes whose CPU times are measured.
    pub(crate) pids: Vec<u32>,
}

/// What became of the attempts to connect.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// With a yes, in the measured seconds.
    pub(crate) connections: u64,
    /// Of those, from the start of the TCP connection to the CONNACK.
    pub(crate) latencies: Histogram,
    /// With a no, by code; warm-up included, as below.
    pub(crate) refused: BTreeMap<u8, u64>,
    /// Without an answer.
    pub(crate) failed: u64,
    pub(crate) first_failure: Option<String>,
}

impl Tally {
    fn note_failure(&mut self, error: &anyhow::Error) {
        match error.downcast_ref::<Refused>() {
            Some(Refused { code }) => *self.refused.entry(*code).or_default() += 1,
            None => self.failed += 1,
        }
        self.first_failure.get_or_insert_with(|| format!("{error:#}"));
    }

    fn add(&mut self, other: Self) {
        self.connections += other.connections;
        self.latencies.add(&other.latencies);
        self.failed += other.failed;
        for (code, count) in other.refused {
            *self.refused.entry(code).or_default() += count;
        }
        self.first_failure = self.first_failure.take().or(other.first_failure);
    }
}

/// What the clients share.
struct Shared {
    door: Arc<Door>,
    recording: AtomicBool,
    stopping: AtomicBool,
}

/// Lets clients connect until the time is over or `interrupted` is.
pub(crate) async fn run(
    plan: &Plan,
    door: Arc<Door>,
    interrupted: impl Future<Output = ()>,
) -> Result<(Tally, Usage)> {
    let shared =
        Arc::new(Shared { door, recording: AtomicBool::new(false), stopping: AtomicBool::new(false) });
    let threads = Threads::start()?;
    let record = || -> Result<Meter<'_>> {
        let meter = Meter::start(&plan.pids)?;
        shared.recording.store(true, Ordering::Relaxed);
        Ok(meter)
    };
    // Without a warm-up the very first connection counts.
    let early = if plan.warm_up.is_zero() { Some(record()?) } else { None };
    let mut clients = JoinSet::new();
    for _ in 0..plan.connecting {
        clients.spawn_on(connect_again_and_again(shared.clone()), threads.handle());
    }
    let mut interrupted = std::pin::pin!(interrupted);
    let over = tokio::select! {
        () = &mut interrupted => true,
        () = tokio::time::sleep(plan.warm_up) => false,
    };
    let meter = match early {
        Some(meter) => meter,
        None => record()?,
    };
    if !over {
        tokio::select! {
            () = &mut interrupted => {}
            () = tokio::time::sleep(plan.measured) => {}
        }
    }
    shared.recording.store(false, Ordering::Relaxed);
    let usage = meter.stop()?;
    shared.stopping.store(true, Ordering::Relaxed);
    let mut all = Tally::default();
    while let Some(tally) = clients.join_next().await {
        all.add(tally.context("a client of the generator died")?);
    }
    Ok((all, usage))
}

async fn connect_again_and_again(shared: Arc<Shared>) -> Tally {
    let mut tally = Tally::default();
    while !shared.stopping.load(Ordering::Relaxed) {
        let start = Instant::now();
        match shared.door.open().await {
            Ok(stream) => {
                if shared.recording.load(Ordering::Relaxed) {
                    tally.connections += 1;
                    tally.latencies.record(start.elapsed());
                }
                dial::leave(stream, Vec::new()).await;
            }
            Err(error) => {
                tally.note_failure(&error);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    tally
}

/// One thread for each processor: a TLS handshake costs the client as much as the gateway, and one thread would be measured
/// instead of the gateway.
struct Threads(Option<Runtime>);

impl Threads {
    fn start() -> Result<Self> {
        let runtime = Builder::new_multi_thread().enable_all().build();
        Ok(Self(Some(runtime.context("cannot start the generator's threads")?)))
    }

    fn handle(&self) -> &Handle {
        match &self.0 {
            Some(runtime) => runtime.handle(),
            None => unreachable!("it is taken when this is dropped"),
        }
    }
}

impl Drop for Threads {
    /// An asynchronous task must not wait for threads to end.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Gateway;

    fn plan() -> Plan {
        let (warm_up, measured) = (Duration::ZERO, Duration::from_secs(20));
        Plan { warm_up, measured, connecting: 4, pids: vec![std::process::id()] }
    }

    /// Runs until the gateway has seen `count` clients.
    async fn run_until(gateway: &Gateway, count: usize) -> (Tally, Usage) {
        let seen = async {
            while gateway.seen().len() < count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        run(&plan(), Arc::new(Door::to(gateway.address)), seen).await.unwrap()
    }

    #[tokio::test]
    async fn clients_connect_again_and_again() {
        let gateway = Gateway::start(0).await;
        let (tally, usage) = run_until(&gateway, 50).await;
        let seen = gateway.seen().len();
        assert!((50 - 4..=seen).contains(&usize::try_from(tally.connections).unwrap()), "{tally:?}");
        assert!(tally.latencies.max_ms() > 0.0 && usage.elapsed > Duration::ZERO);
        assert!(tally.refused.is_empty() && tally.failed == 0, "{tally:?}");
    }

    #[tokio::test]
    async fn a_refusal_is_no_connection() {
        let gateway = Gateway::start(3).await;
        let (tally, _) = run_until(&gateway, 8).await;
        assert_eq!((tally.connections, tally.failed), (0, 0));
        assert_eq!(tally.refused.keys().collect::<Vec<_>>(), [&3]);
        assert!(tally.first_failure.unwrap().contains("server unavailable"));
    }

    #[tokio::test]
    async fn nobody_there_is_a_failure() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let door = Arc::new(Door::to(listener.local_addr().unwrap()));
        drop(listener);
        let soon = tokio::time::sleep(Duration::from_millis(100));
        let (tally, _) = run(&plan(), door, soon).await.unwrap();
        assert!(tally.failed >= 4 && tally.connections == 0, "{tally:?}");
        assert!(tally.first_failure.unwrap().contains("cannot connect to the gateway"));
    }
}
