//! How much memory of the platform a connection costs that says nothing.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::BytesMut;
use futures::{StreamExt, TryStreamExt, stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use crate::dial::{self, Stream};
use crate::door::Door;
use crate::mqtt::{self, Packet};
use crate::processes::resident_kib;

/// Connections that come and go before the first look: what the platform needs once is not counted for each.
const WARM_UP: u32 = 64;
/// For the answer to a ping.
const PONG_WITHIN: Duration = Duration::from_secs(10);
/// Memory that changes by less than this share, in 1/1000, is steady.
const STEADY_PER_MILLE: u64 = 2;

/// What the measurement needs to know.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) connections: u32,
    /// Clients that are about to connect at the same time.
    pub(crate) connecting: usize,
    /// The processes whose memory is measured.
    pub(crate) pids: Vec<u32>,
    pub(crate) patience: Patience,
}

/// How long memory is watched until it counts as steady.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    pub(crate) look_every: Duration,
    /// So many looks in a row must see the same.
    pub(crate) looks: usize,
    /// After this, the last look counts, steady or not.
    pub(crate) within: Duration,
}

impl Patience {
    /// 5 s without a change, 60 s at most: the allocator gives memory back over some 10 s.
    pub(crate) const DEFAULT: Self =
        Self { look_every: Duration::from_millis(500), looks: 10, within: Duration::from_secs(60) };
}

/// Memory at one time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Resident {
    pub(crate) kib: u64,
    pub(crate) steady: bool,
}

/// What was seen.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) connections: u32,
    pub(crate) before: Resident,
    pub(crate) after: Resident,
    /// Connections that the gateway still held at the end: they answered a ping.
    pub(crate) answered: u32,
}

/// Opens the connections, waits, measures, and asks each whether it is still there.
pub(crate) async fn run(plan: &Plan, door: &Door) -> Result<Outcome> {
    ensure!(
        !plan.pids.is_empty(),
        "whose memory is to be measured is not known; name the platform's processes with --pid"
    );
    close(open(door, WARM_UP, plan.connecting).await?).await;
    let before = settled(&plan.pids, plan.patience).await?;
    let mut streams = open(door, plan.connections, plan.connecting).await?;
    let after = settled(&plan.pids, plan.patience).await?;
    let answers = stream::iter(&mut streams).map(answers).buffer_unordered(plan.connecting);
    let answered = answers.fold(0, async |sum, answer| sum + u32::from(answer)).await;
    close(streams).await;
    Ok(Outcome { connections: plan.connections, before, after, answered })
}

async fn open(door: &Door, count: u32, at_once: usize) -> Result<Vec<Stream>> {
    stream::iter(0..count)
        .map(async |number| {
            door.open().await.with_context(|| format!("connection {} of {count} failed", number + 1))
        })
        .buffer_unordered(at_once)
        .try_collect()
        .await
}

async fn close(streams: Vec<Stream>) {
    for stream in streams {
        dial::leave(stream, Vec::new()).await;
    }
}

/// True when the gateway answers a ping on this connection.
async fn answers(stream: &mut Stream) -> bool {
    let ask = async {
        let (mut ping, mut inbox) = (Vec::new(), BytesMut::new());
        mqtt::write_ping(&mut ping);
        stream.write_all(&ping).await?;
        stream.flush().await?;
        while stream.read_buf(&mut inbox).await? > 0 {
            if let Some((packet, _)) = mqtt::read(&inbox)? {
                return anyhow::Ok(packet == Packet::Other);
            }
        }
        Ok(false)
    };
    matches!(timeout(PONG_WITHIN, ask).await, Ok(Ok(true)))
}

/// Watches the memory until it is steady.
async fn settled(pids: &[u32], patience: Patience) -> Result<Resident> {
    let end = Instant::now() + patience.within;
    let mut seen = VecDeque::new();
    loop {
        let kib = resident_kib(pids)?;
        seen.push_back(kib);
        if seen.len() > patience.looks {
            seen.pop_front();
        }
        let steady = seen.len() == patience.looks && is_steady(&seen);
        if steady || Instant::now() >= end {
            return Ok(Resident { kib, steady });
        }
        tokio::time::sleep(patience.look_every).await;
    }
}

fn is_steady(seen: &VecDeque<u64>) -> bool {
    let (least, most) = (seen.iter().min(), seen.iter().max());
    least.zip(most).is_some_and(|(least, most)| (most - least) * 1000 <= most * STEADY_PER_MILLE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Gateway;

    fn plan(pids: Vec<u32>) -> Plan {
        let patience =
            Patience { look_every: Duration::from_millis(1), looks: 2, within: Duration::from_millis(50) };
        Plan { connections: 100, connecting: 16, pids, patience }
    }

    #[tokio::test]
    async fn all_connections_are_open_at_the_same_time_and_still_there_at_the_end() {
        let gateway = Gateway::start(0).await;
        let outcome = run(&plan(vec![std::process::id()]), &Door::to(gateway.address)).await.unwrap();
        assert_eq!((outcome.connections, outcome.answered), (100, 100));
        assert!(outcome.before.kib > 0 && outcome.after.kib > 0);
        assert_eq!(gateway.seen().len(), 164, "with the warm-up");
    }

    #[tokio::test]
    async fn a_refused_connection_and_an_unknown_process_are_told() {
        let gateway = Gateway::start(3).await;
        let door = Door::to(gateway.address);
        let error = run(&plan(vec![std::process::id()]), &door).await.err().unwrap();
        assert!(format!("{error:#}").contains("server unavailable"), "{error:#}");
        let error = run(&plan(vec![]), &door).await.err().unwrap();
        assert!(error.to_string().contains("--pid"), "{error}");
    }

    #[test]
    fn memory_is_steady_when_it_hardly_changes() {
        assert!(is_steady(&[100_000, 100_200, 100_100].into()));
        assert!(!is_steady(&[100_000, 100_201].into()));
        assert!(!is_steady(&[].into()));
    }
}
