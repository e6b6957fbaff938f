//! CPU time and memory of the platform's processes, from `/proc`.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

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

/// What a stretch of time has cost.
#[derive(Debug)]
pub(crate) struct Usage {
    pub(crate) elapsed: Duration,
    /// Of the platform's processes.
    pub(crate) cpu_us: CpuTimes,
    /// Of this process.
    pub(crate) generator_us: u64,
    pub(crate) machine_busy_percent: f64,
}

impl Usage {
    pub(crate) fn per_second(&self, count: u64) -> f64 {
        count as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// A stretch of time that is being measured.
#[derive(Debug)]
pub(crate) struct Meter<'a> {
    roots: &'a [u32],
    start: Instant,
    cpu_us: CpuTimes,
    generator_us: u64,
    machine: Machine,
}

impl<'a> Meter<'a> {
    /// Begins to measure the processes `roots` and their descendants, this process and the machine.
    pub(crate) fn start(roots: &'a [u32]) -> Result<Self> {
        Ok(Self {
            roots,
            cpu_us: cpu_times(roots)?,
            generator_us: own_cpu_us()?,
            machine: Machine::now()?,
            start: Instant::now(),
        })
    }

    pub(crate) fn stop(self) -> Result<Usage> {
        let elapsed = self.start.elapsed();
        let mut cpu_us = cpu_times(self.roots)?;
        for (name, us) in &mut cpu_us {
            *us = us.saturating_sub(self.cpu_us.get(name).copied().unwrap_or(0));
        }
        Ok(Usage {
            elapsed,
            cpu_us,
            generator_us: own_cpu_us()?.saturating_sub(self.generator_us),
            machine_busy_percent: Machine::now()?.busy_percent_since(self.machine),
        })
    }
}

/// The memory that the processes `pids` have in RAM together, without that of their children, in KiB.
pub(crate) fn resident_kib(pids: &[u32]) -> Result<u64> {
    pids.iter().try_fold(0, |sum, pid| {
        let file = format!("/proc/{pid}/status");
        let status = fs::read_to_string(&file)
            .with_context(|| format!("cannot read {file}: has the platform's process {pid} ended?"))?;
        Ok(sum + parse_resident_kib(&status).with_context(|| format!("{file} has an unknown form"))?)
    })
}

/// `VmRSS:      1234 kB`, where kB means KiB.
fn parse_resident_kib(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim_end().parse().ok()
}

/// The CPU times so far of the processes `roots` and of all their descendants, summed by program name (every PostgreSQL
/// process is `postgres`). Children that ended are counted with their parent's name: the backends of PostgreSQL come and
/// go, and the sum of the tree must not fall when one ends.
fn cpu_times(roots: &[u32]) -> Result<CpuTimes> {
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
fn own_cpu_us() -> Result<u64> {
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
struct Machine {
    busy: u64,
    all: u64,
}

impl Machine {
    fn now() -> Result<Self> {
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
    fn busy_percent_since(self, earlier: Self) -> f64 {
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
        let roots = [std::process::id()];
        let usage = Meter::start(&roots).unwrap().stop().unwrap();
        assert_eq!(usage.cpu_us.len(), 1, "{usage:?}");
        assert!((0.0..=100.0).contains(&usage.machine_busy_percent));
        let resident = resident_kib(&roots).unwrap();
        assert!(resident > 100, "{resident} KiB");
        assert_eq!(resident_kib(&[]).unwrap(), 0);
        assert!(resident_kib(&[0]).is_err(), "there is no process 0");
    }

    #[test]
    fn resident_memory_is_one_line_of_many() {
        let status = "Name:\tbandar\nVmHWM:\t  99999 kB\nVmRSS:\t  1234 kB\nThreads:\t4\n";
        assert_eq!(parse_resident_kib(status), Some(1234));
        assert_eq!(parse_resident_kib("Name:\tkthreadd\n"), None);
    }
}
