//! Server processes that end with the test process.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::eventually::poll;
use crate::folder::Folder;

/// Limit for the start of a server, wide because a test run keeps all cores busy.
const START: Duration = Duration::from_secs(30);

/// Runs between the test and the server: it waits on its standard input, which the system closes when the test process
/// ends, even by SIGKILL, then ends the server and removes its folder. A line instead of the end means: keep the folder.
const SUPERVISOR: &str = r#"
signal=$1; folder=$2; shift 2
"$@" </dev/null &
server=$!
read -r keep
kill -s "$signal" "$server" 2>/dev/null
wait "$server"
[ -n "$keep" ] || rm -rf -- "$folder"
"#;

/// A server process with a folder of its own, both gone when this value is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    command: Vec<OsString>,
    signal: &'static str,
    folder: Folder,
    supervisor: Option<Child>,
}

impl Server {
    /// Describes a server: its program and arguments, the signal that ends it at once (without the prefix SIG), and the
    /// folder of its data and log.
    pub(crate) fn new(command: Vec<OsString>, signal: &'static str, folder: Folder) -> Self {
        Self { command, signal, folder, supervisor: None }
    }

    /// Starts the server, or does nothing when it was started already.
    pub(crate) fn start(&mut self) {
        if self.supervisor.is_some() {
            return;
        }
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .expect("the log must be writable");
        let supervisor = Command::new("sh")
            .args(["-c", SUPERVISOR, "testkit", self.signal])
            .arg(self.folder.path())
            .args(&self.command)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            // A Ctrl-C for the test run must not reach it before it has cleaned up.
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start sh: {error}"));
        self.supervisor = Some(supervisor);
    }

    /// Ends the server at once and keeps its folder, so that it may be started again.
    pub(crate) fn kill(&mut self) {
        self.end(true);
    }

    /// Waits until `look` gives something, the sign that the server takes work.
    ///
    /// # Panics
    /// When that takes more than 30 seconds, with the last part of what the server printed.
    pub(crate) async fn ready<T>(&self, look: impl AsyncFnMut() -> Option<T>) -> T {
        poll(START, look).await.unwrap_or_else(|| {
            let log = std::fs::read(self.log_path()).unwrap_or_default();
            let log = String::from_utf8_lossy(&log[log.len().saturating_sub(4096)..]);
            panic!("{:?} did not answer within {START:?}; it printed:\n{log}", self.command[0])
        })
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn end(&mut self, keep: bool) {
        let Some(mut supervisor) = self.supervisor.take() else { return };
        let mut input = supervisor.stdin.take();
        if let Some(input) = input.as_mut().filter(|_| keep) {
            let _ = input.write_all(b"keep\n");
        }
        drop(input);
        let _ = supervisor.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.supervisor.is_some() {
            self.end(false);
        } else {
            let _ = std::fs::remove_dir_all(self.folder.path());
        }
    }
}
