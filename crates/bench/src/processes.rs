//! CPU time of the platform's processes, from `/proc`.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};

/// Linux reports process times in units of 1/100 s to programs, whatever its own clock is.
const TICK_US: u64 = 10_000;

/// CPU time in microseconds by the name of the program.
pub(crate) type CpuTimes = BTreeMap<String, u64>;

/// One line of `/proc/<pid>/stat`.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    pid: u32,
    name: String,
    parent: u32,
    /// User and system time of the process itself.
    own_us: u64,
    /// That of its children which have ended and were waited for.
    ended_children_us: u64,
}

/// The CPU times so far of the processes `roots` and of all their descendants, summed by program name (every PostgreSQL
/// process is `postgres`). Children that ended are counted with their parent's name: the backends of PostgreSQL come and
/// go, and the sum of the tree must not fall when one ends.
pub(crate) fn cpu_times(roots: &[u32]) -> Result<CpuTimes> {
    let stats = all_processes()?;
    let mut times = CpuTimes::new();
    let mut open: Vec<u32> = roots.to_vec();
    while let Some(pid) = open.pop() {
        let Some(stat) = stats.iter().find(|stat| stat.pid == pid) else { continue };
        *times.entry(stat.name.clone()).or_default() += stat.own_us + stat.ended_children_us;
        open.extend(stats.iter().filter(|stat| stat.parent == pid).map(|stat| stat.pid));
    }
    Ok(times)
}

/// The CPU time of this process so far, in microseconds.
pub(crate) fn own_cpu_us() -> Result<u64> {
    let line = fs::read_to_string("/proc/self/stat").context("cannot read /proc/self/stat")?;
    Ok(parse(&line).context("/proc/self/stat has an unknown form")?.own_us)
}

/// Processes that end while the list is made are left out.
fn all_processes() -> Result<Vec<Stat>> {
    let entries = fs::read_dir("/proc").context("cannot list /proc, so no CPU times can be measured")?;
    let pids = entries.filter_map(Result::ok).filter(|entry| {
        entry.file_name().to_str().is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
    });
    Ok(pids.filter_map(|entry| parse(&fs::read_to_string(entry.path().join("stat")).ok()?)).collect())
}

/// The name stands in parentheses and may hold any character, so the fields are counted from the last one.
fn parse(line: &str) -> Option<Stat> {
    let (head, tail) = line.rsplit_once(')')?;
    let (pid, name) = head.split_once('(')?;
    let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
    let ticks = |field: usize| fields.get(field)?.parse::<u64>().ok();
    Some(Stat {
        pid: pid.trim().parse().ok()?,
        name: name.to_owned(),
        parent: fields.get(1)?.parse().ok()?,
        own_us: (ticks(11)? + ticks(12)?) * TICK_US,
        ended_children_us: (ticks(13)? + ticks(14)?) * TICK_US,
    })
}

/// Time in which the machine's processors did something and all their time, since it started, in ticks of all processors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Machine {
    busy: u64,
    all: u64,
}

impl Machine {
    pub(crate) fn now() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        let first = text.lines().next().unwrap_or_default();
        let ticks: Vec<u64> =
            first.split_ascii_whitespace().skip(1).take(8).filter_map(|n| n.parse().ok()).collect();
        let all = ticks.iter().sum();
        // The fourth and fifth are idle time and waiting for disks.
        let idle: u64 = ticks.iter().skip(3).take(2).sum();
        Ok(Self { busy: all - idle, all })
    }

    /// The busy share since `earlier`, in percent of all processors.
    pub(crate) fn busy_percent_since(self, earlier: Self) -> f64 {
        100.0 * (self.busy - earlier.busy) as f64 / (self.all - earlier.all).max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_anything() {
        let line = "77 (a) b (c) S 12 77 77 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 1 0 100 0 0";
        let stat =
            Stat { pid: 77, name: "a) b (c".into(), parent: 12, own_us: 300_000, ended_children_us: 700_000 };
        assert_eq!(parse(line), Some(stat));
        assert_eq!(parse("77 (cut S 12"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn finds_itself() {
        let times = cpu_times(&[std::process::id()]).unwrap();
        assert_eq!(times.len(), 1, "{times:?}");
        assert!(own_cpu_us().is_ok());
        let machine = Machine::now().unwrap();
        assert!((0.0..=100.0).contains(&Machine::now().unwrap().busy_percent_since(machine)));
    }
}
