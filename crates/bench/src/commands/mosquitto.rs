//! A mosquitto of our own, to compare with.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

const READY_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Where Debian puts programs that only root is expected to run.
const ELSEWHERE: &str = "/usr/sbin/mosquitto";

/// A running broker; it stores nothing on disk and lets everybody in, on this machine only.
pub(super) struct Mosquitto {
    pub(super) address: SocketAddr,
    process: Child,
    pid: u32,
    _directory: TempDir,
}

impl Mosquitto {
    /// None when it is not installed.
    pub(super) async fn start() -> Result<Option<Self>> {
        let Some(program) = find() else {
            let told = "bench: mosquitto is not installed (Debian package mosquitto): its part is skipped";
            let _ = writeln!(std::io::stderr(), "{told}");
            return Ok(None);
        };
        let port = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let directory = tempfile::tempdir().context("cannot create a temporary directory")?;
        let config = directory.path().join("mosquitto.conf");
        let text = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nmax_queued_messages 0\n\
             max_inflight_messages 0\nset_tcp_nodelay true\nlog_type error\n"
        );
        std::fs::write(&config, text)?;
        let process = Command::new(&program)
            .arg("-c")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot run {}", program.display()))?;
        let pid = process.id().context("mosquitto ended at once")?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut broker = Self { address, process, pid, _directory: directory };
        broker.ready().await?;
        Ok(Some(broker))
    }

    async fn ready(&mut self) -> Result<()> {
        let start = Instant::now();
        while TcpStream::connect(self.address).await.is_err() {
            ensure!(self.process.try_wait()?.is_none(), "mosquitto ended while it started");
            ensure!(start.elapsed() < READY_WITHIN, "mosquitto was not ready within {READY_WITHIN:?}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    pub(super) fn pids(&self) -> [u32; 1] {
        [self.pid]
    }

    pub(super) async fn stop(mut self) -> Result<()> {
        self.process.kill().await.context("cannot stop mosquitto")
    }
}

fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|directory| directory.join("mosquitto"))
        .chain([Path::new(ELSEWHERE).to_owned()])
        .find(|program| program.is_file())
}
