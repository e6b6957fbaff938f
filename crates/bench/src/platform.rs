//! The platform under load: one of our own in a temporary directory, or a running one.

use std::fs::{File, Permissions};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::cli::Args;
use crate::profile::Transport;
use crate::rest::Rest;

/// A first start creates a database cluster.
const READY_WITHIN: Duration = Duration::from_secs(90);
const STOPPED_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The end of the platform's log that is shown when it does not start.
const LOG_TAIL_BYTES: usize = 4_000;

/// Where the platform is and which processes belong to it.
pub(crate) struct Platform {
    pub(crate) rest: Rest,
    pub(crate) pids: Vec<u32>,
    mqtt: Vec<SocketAddr>,
    http: SocketAddr,
    /// What this program started itself.
    own: Option<Own>,
}

struct Own {
    process: Child,
    directory: TempDir,
}

/// What `bandar up` notes in its data directory while it runs.
#[derive(Deserialize)]
struct Running {
    pid: u32,
    http: String,
    mqtt: String,
}

impl Running {
    fn read(data: &Path) -> Result<Self> {
        let file = data.join("running.json");
        let text = std::fs::read(&file).with_context(|| {
            format!(
                "cannot read {}: is a platform running there? if not by `bandar up`, give --url and --mqtt",
                file.display()
            )
        })?;
        serde_json::from_slice(&text).with_context(|| format!("{} is not as expected", file.display()))
    }
}

impl Platform {
    /// Starts a platform, or finds the one that the arguments name.
    pub(crate) async fn open(args: &Args) -> Result<Self> {
        let Some(data) = &args.data else { return Self::start(&args.bandar).await };
        let (mut url, mut mqtt, mut pids) = (args.url.clone(), args.mqtt.clone(), args.pids.clone());
        if url.is_none() || mqtt.is_empty() {
            let running = Running::read(data)?;
            url.get_or_insert(running.http);
            if mqtt.is_empty() {
                mqtt.push(address(&running.mqtt).await?);
            }
            if pids.is_empty() {
                pids.push(running.pid);
            }
        }
        let url = url.context("the platform's REST address is not known; name it with --url")?;
        let Some(authority) = url.strip_prefix("http://").map(|rest| rest.trim_end_matches('/')) else {
            bail!(
                "the platform's REST address {url} must start with http://: the devices of the load speak plain HTTP"
            );
        };
        let http = address(authority).await?;
        Ok(Self { rest: Rest::new(&url, data)?, pids, mqtt, http, own: None })
    }

    async fn start(bandar: &Path) -> Result<Self> {
        // The database's own user has to reach its directory.
        let directory = tempfile::Builder::new()
            .prefix("bandar-bench-")
            .permissions(Permissions::from_mode(0o755))
            .tempdir()
            .context("cannot create a temporary directory")?;
        let data = directory.path().join("data");
        let log = directory.path().join("bandar.log");
        let [mqtt, http] = free_addresses()?;
        let process = Command::new(bandar)
            .args([Path::new("up"), Path::new("--data"), &data])
            .env("BANDAR__KPC__MQTT__LISTEN", mqtt.to_string())
            .env("BANDAR__HTTP__LISTEN", http.to_string())
            .env_remove("NATS_URL")
            .env_remove("DATABASE_URL")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            // Ctrl-C on the terminal is for this program, which then ends the load and stops the platform itself.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot run {}: build it first with make", bandar.display()))?;
        let pid = process.id().context("the platform ended at once")?;
        let mut own = Own { process, directory };
        if let Err(error) = own.ready(http).await {
            return Err(error.context(format!("the end of its log:\n{}", tail(&log))));
        }
        let rest = Rest::new(&format!("http://{http}"), &data)?;
        Ok(Self { rest, pids: vec![pid], mqtt: vec![mqtt], http, own: Some(own) })
    }

    /// The addresses that devices use.
    pub(crate) fn gateways(&self, transport: Transport) -> Vec<SocketAddr> {
        match transport {
            Transport::Mqtt => self.mqtt.clone(),
            Transport::Http => vec![self.http],
        }
    }

    /// Stops what this program started, in order, and removes its data.
    pub(crate) async fn close(self) -> Result<()> {
        let Some(Own { mut process, directory }) = self.own else { return Ok(()) };
        let Some(pid) = process.id() else { bail!("the platform ended by itself") };
        // Without unsafe code, a signal other than SIGKILL is sent by the system's own program.
        let sent = Command::new("kill").args(["-INT", &pid.to_string()]).status().await;
        ensure!(sent.is_ok_and(|status| status.success()), "cannot send SIGINT to the platform");
        let ended = tokio::time::timeout(STOPPED_WITHIN, process.wait()).await;
        let status =
            ended.with_context(|| format!("the platform did not stop within {STOPPED_WITHIN:?}"))??;
        ensure!(status.success(), "the platform stopped with {status}");
        directory.close().context("cannot remove the platform's data")
    }
}

impl Own {
    async fn ready(&mut self, http: SocketAddr) -> Result<()> {
        let client = reqwest::Client::builder().timeout(Duration::from_secs(2)).build()?;
        let start = Instant::now();
        while start.elapsed() < READY_WITHIN {
            if let Some(status) = self.process.try_wait()? {
                bail!("the platform ended with {status} while it started");
            }
            let answer = client.get(format!("http://{http}/ready")).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        bail!("the platform was not ready within {READY_WITHIN:?}")
    }
}

/// Two free addresses. Both are held until both are known, so they differ.
fn free_addresses() -> Result<[SocketAddr; 2]> {
    let listeners = [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
    let [first, second] = listeners.each_ref().map(TcpListener::local_addr);
    Ok([first?, second?])
}

/// Looks up `host:port`.
async fn address(text: &str) -> Result<SocketAddr> {
    let mut found = tokio::net::lookup_host(text)
        .await
        .with_context(|| format!("{text} is not an address of the form host:port"))?;
    found.next().with_context(|| format!("{text} has no address"))
}

fn tail(log: &Path) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    let start = bytes.len().saturating_sub(LOG_TAIL_BYTES);
    String::from_utf8_lossy(bytes.get(start..).unwrap_or_default()).into_owned()
}
