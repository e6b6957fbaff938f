//! A child process that is kept alive, and that never outlives this process.
//!
//! The child asks the kernel for a signal at its parent's death (PR_SET_PDEATHSIG, set by `setpriv`). To the kernel
//! the parent is the *thread* that made the child, so each child has a thread of its own that makes it, waits for it,
//! and makes it again when it dies, for as long as the child is wanted.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

use super::account::Account;

/// The wait before a dead child is started again doubles from the first to the second.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// A child that lived this long starts with the shortest back-off again.
const STEADY: Duration = Duration::from_secs(60);
/// The last lines that a child wrote are kept to explain its end.
const TAIL_LINES: usize = 12;
const LINE_BYTES: u64 = 8 * 1024;
/// How long the rest of a dead child's log is waited for; grandchildren may hold it open for longer.
const LAST_WORDS: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_millis(5);

/// What is run and how it is stopped.
pub(crate) struct Launch {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    /// The directory that it runs in; it must be reachable for `account`.
    pub(crate) directory: PathBuf,
    /// Whom it runs as; `None` for the user of this process.
    pub(crate) account: Option<Account>,
}

/// A program that is kept running.
pub(crate) trait Program: Send + Sync + 'static {
    /// The name in logs and messages.
    const NAME: &'static str;
    /// The signal that the kernel sends it when this process dies without a word.
    const DEATH_SIGNAL: &'static str;
    /// The signals that stop it, each with the time that it has to obey.
    const STOP: &'static [(Signal, Duration)];

    /// Clears what an earlier run left behind and says what to run. May block, but gives up once `wanted` is false.
    fn prepare(&self, wanted: &dyn Fn() -> bool) -> anyhow::Result<Launch>;

    /// Whether the process with this id serves.
    fn is_ready(&self, pid: Pid) -> bool;

    /// How much a line of its log matters, and the line without its decoration.
    fn level<'a>(&self, line: &'a str) -> (tracing::Level, &'a str);
}

/// A program with its thread. Dropping it stops the program.
pub(crate) struct Child<P: Program> {
    shared: Arc<Shared<P>>,
    thread: Option<JoinHandle<()>>,
}

struct Shared<P> {
    program: P,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The running process. It is taken out before the process is reaped, so a signal never meets a stranger.
    pid: Option<Pid>,
    /// Why the last run ended.
    end: Option<String>,
    tail: VecDeque<String>,
    /// Logs that are still being read.
    logs: u32,
    stopping: bool,
    finished: bool,
}

impl<P: Program> Child<P> {
    /// Starts the program on its own thread and returns at once.
    pub(crate) fn start(program: P) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared { program, state: Mutex::default(), changed: Condvar::new() });
        let own = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name(P::NAME.to_owned())
            .spawn(move || own.keep_running())
            .with_context(|| format!("cannot start a thread for {}", P::NAME))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Waits until the program serves. A first run that ends is an error with its last words, since what stops a
    /// program from starting at all (a port in use, a full disk) does not pass by itself.
    pub(crate) fn wait_ready(&self, patience: Duration) -> anyhow::Result<()> {
        let begin = Instant::now();
        loop {
            let pid = {
                let state = self.shared.lock();
                if let Some(end) = &state.end {
                    let tail: String = state.tail.iter().map(|line| format!("\n  {line}")).collect();
                    bail!("{} did not start: {end}{tail}", P::NAME);
                }
                state.pid
            };
            if pid.is_some_and(|pid| self.shared.program.is_ready(pid)) {
                return Ok(());
            }
            if begin.elapsed() > patience {
                bail!(
                    "{} is not ready after {} s; its log (log filter `bandar=debug`) says why",
                    P::NAME,
                    patience.as_secs()
                );
            }
            std::thread::sleep(POLL);
        }
    }

    fn stop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.shared.lock().stopping = true;
        self.shared.changed.notify_all();
        for (signal, patience) in P::STOP {
            let state = self.shared.lock();
            if let Some(pid) = state.pid {
                // The only failure is that the process has just gone, which is what is wanted.
                let _ = rustix::process::kill_process(pid, *signal);
            }
            let waited = self.shared.changed.wait_timeout_while(state, *patience, |state| !state.finished);
            if waited.unwrap_or_else(PoisonError::into_inner).0.finished {
                break;
            }
            tracing::warn!(child = P::NAME, ?signal, "still running after {} s", patience.as_secs());
        }
        if thread.join().is_err() {
            tracing::error!(child = P::NAME, "its thread panicked");
        }
    }
}

impl<P: Program> Drop for Child<P> {
    fn drop(&mut self) {
        self.stop();
    }
}

impl<P: Program> Shared<P> {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wanted(&self) -> bool {
        !self.lock().stopping
    }

    fn keep_running(self: Arc<Self>) {
        let mut back_off = BACK_OFF.0;
        while self.wanted() {
            let begin = Instant::now();
            let end = self.run_once().unwrap_or_else(|error| format!("{error:#}"));
            if begin.elapsed() > STEADY {
                back_off = BACK_OFF.0;
            }
            let mut state = self.lock();
            if !state.stopping {
                tracing::error!(child = P::NAME, "{end}; starting it again in {} ms", back_off.as_millis());
                state.end = Some(end);
                drop(self.changed.wait_timeout_while(state, back_off, |state| !state.stopping));
                back_off = (back_off * 2).min(BACK_OFF.1);
            }
        }
        self.lock().finished = true;
        self.changed.notify_all();
    }

    /// Runs the program until it ends and says how it ended.
    fn run_once(self: &Arc<Self>) -> anyhow::Result<String> {
        let launch = self.program.prepare(&|| self.wanted())?;
        let mut child = {
            let mut state = self.lock();
            if state.stopping {
                return Ok("stopped".to_owned());
            }
            let mut command = command(&launch, P::DEATH_SIGNAL);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
            let child = command
                .spawn()
                .with_context(|| format!("cannot run setpriv for {}", launch.program.display()))?;
            state.pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
            state.tail.clear();
            child
        };
        tracing::debug!(child = P::NAME, pid = child.id(), "started");
        if let Some(log) = child.stderr.take() {
            let own = Arc::clone(self);
            self.lock().logs += 1;
            let reader = std::thread::Builder::new().name(format!("{} log", P::NAME));
            reader.spawn(move || own.read_log(log)).context("cannot start a thread for the log")?;
        }
        let pid = self.lock().pid;
        if let Some(pid) = pid {
            while let Err(rustix::io::Errno::INTR) =
                rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)
            {
            }
        }
        self.lock().pid = None;
        let status = child.wait().context("waiting for the process")?;
        drop(self.changed.wait_timeout_while(self.lock(), LAST_WORDS, |state| state.logs > 0));
        Ok(format!("it ended ({status})"))
    }

    fn read_log(&self, log: impl Read) {
        let mut log = BufReader::new(log);
        let mut buffer = Vec::new();
        loop {
            buffer.clear();
            if log.by_ref().take(LINE_BYTES).read_until(b'\n', &mut buffer).unwrap_or(0) == 0 {
                self.lock().logs -= 1;
                self.changed.notify_all();
                return;
            }
            let text = String::from_utf8_lossy(&buffer);
            let (level, line) = self.program.level(text.trim_end());
            match level {
                tracing::Level::ERROR => tracing::error!(child = P::NAME, "{line}"),
                tracing::Level::WARN => tracing::warn!(child = P::NAME, "{line}"),
                _ => tracing::debug!(child = P::NAME, "{line}"),
            }
            let mut state = self.lock();
            if state.tail.len() == TAIL_LINES {
                state.tail.pop_front();
            }
            state.tail.push_back(line.to_owned());
        }
    }
}

/// The command line: `setpriv` sets the account and the death signal, then a shell makes sure that the parent did not
/// die before that, then it becomes the program. The process id stays the same all the way.
pub(crate) fn command(launch: &Launch, death_signal: &str) -> Command {
    const ONLY_WITH_PARENT: &str = r#"[ "$PPID" = "$0" ] || exit 70; exec "$@""#;
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", death_signal]);
    if let Some(account) = &launch.account {
        command.args([
            "--reuid",
            &account.uid.to_string(),
            "--regid",
            &account.gid.to_string(),
            "--clear-groups",
        ]);
    }
    command.args(["sh", "-c", ONLY_WITH_PARENT]).arg(std::process::id().to_string());
    command.arg(&launch.program).args(&launch.arguments).current_dir(&launch.directory);
    // The environment may hold secrets, and PG* variables that would redirect PostgreSQL's tools.
    command
        .env_clear()
        .env("PATH", super::programs::search_path())
        .env("LANG", "C.UTF-8")
        .env("LC_ALL", "C.UTF-8");
    // Ctrl-C in a terminal goes to the whole process group; the services must stop before what they stand on.
    command.process_group(0);
    command
}

/// Runs a short command to its end, with `input` as its standard input. What it wrote is part of the error.
pub(crate) fn run(launch: &Launch, input: &str) -> anyhow::Result<String> {
    let name = launch.program.display();
    let mut command = command(launch, "KILL");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot run setpriv (package util-linux)")?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that ends early closes the pipe; its status and output say why.
        drop(std::io::Write::write_all(&mut stdin, input.as_bytes()));
    }
    let output = child.wait_with_output().with_context(|| format!("waiting for {name}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if !output.status.success() {
        bail!("{name} failed ({}):\n{}\n{}", output.status, text(&output.stderr), text(&output.stdout));
    }
    Ok(text(&output.stdout))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Script(&'static str);

    impl Program for Script {
        const NAME: &'static str = "script";
        const DEATH_SIGNAL: &'static str = "KILL";
        const STOP: &'static [(Signal, Duration)] =
            &[(Signal::TERM, Duration::from_millis(200)), (Signal::KILL, Duration::from_secs(10))];

        fn prepare(&self, _wanted: &dyn Fn() -> bool) -> anyhow::Result<Launch> {
            let arguments = vec!["-c".into(), self.0.into()];
            Ok(Launch { program: "sh".into(), arguments, directory: "/".into(), account: None })
        }

        fn is_ready(&self, _pid: Pid) -> bool {
            false
        }

        fn level<'a>(&self, line: &'a str) -> (tracing::Level, &'a str) {
            (tracing::Level::DEBUG, line)
        }
    }

    fn pid_other_than(child: &Child<Script>, other: Option<Pid>) -> Pid {
        let begin = Instant::now();
        loop {
            if let Some(pid) = child.shared.lock().pid.filter(|pid| Some(*pid) != other) {
                return pid;
            }
            assert!(begin.elapsed() < Duration::from_secs(20), "no new process");
            std::thread::sleep(POLL);
        }
    }

    #[test]
    fn a_first_run_that_ends_is_an_error_with_its_last_words() {
        let child = Child::start(Script("echo the disk is full >&2; exit 3")).unwrap();
        let error = child.wait_ready(Duration::from_secs(20)).unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("the disk is full"), "{error}");
    }

    #[test]
    fn a_dead_child_is_started_again() {
        let child = Child::start(Script("exec sleep 1000")).unwrap();
        let first = pid_other_than(&child, None);
        rustix::process::kill_process(first, Signal::KILL).unwrap();
        pid_other_than(&child, Some(first));
    }

    #[test]
    fn a_child_that_does_not_obey_is_killed() {
        let child = Child::start(Script("trap '' TERM; while :; do sleep 1; done")).unwrap();
        let pid = pid_other_than(&child, None);
        drop(child);
        assert!(rustix::process::test_kill_process(pid).is_err());
    }

    #[test]
    fn a_command_that_fails_explains_itself() {
        let arguments = vec!["-c".into(), "cat >&2; exit 1".into()];
        let launch = Launch { program: "sh".into(), arguments, directory: "/".into(), account: None };
        let error = run(&launch, "why\n").unwrap_err().to_string();
        assert!(error.contains("why"), "{error}");
    }
}
