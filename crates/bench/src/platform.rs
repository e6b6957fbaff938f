//! The platform under load: one of our own in a temporary directory, or a running one.

use std::fs::{File, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::cli::Args;
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
    mqtt_tls: Vec<SocketAddr>,
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
#[serde(rename_all = "camelCase")]
struct Running {
    pid: u32,
    http: String,
    mqtt: String,
    mqtt_tls: String,
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
        let (mut url, mut pids) = (args.url.clone(), args.pids.clone());
        let (mut mqtt, mut mqtt_tls) = (args.mqtt.clone(), args.mqtt_tls.clone());
        if url.is_none() || mqtt.is_empty() {
            let running = Running::read(data)?;
            url.get_or_insert(running.http);
            if mqtt.is_empty() {
                mqtt.push(address(&running.mqtt).await?);
            }
            if mqtt_tls.is_empty() && !running.mqtt_tls.is_empty() {
                mqtt_tls.push(address(&running.mqtt_tls).await?);
            }
            if pids.is_empty() {
                pids.push(running.pid);
            }
        }
        let url = url.context("the platform's REST address is not known; name it with --url")?;
        let http = http_address(&url).await?;
        Ok(Self { rest: Rest::new(&url, data)?, pids, mqtt, mqtt_tls, http, own: None })
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
        let process = Command::new(bandar)
            .args([Path::new("up"), Path::new("--data"), &data])
            // The platform chooses free ports, also for the listeners that are not named here, and notes them.
            .env("BANDAR__KPC__MQTT__LISTEN", "127.0.0.1:0")
            .env("BANDAR__HTTP__LISTEN", "127.0.0.1:0")
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
        let running = match own.ready(&data).await {
            Ok(running) => running,
            Err(error) => return Err(error.context(format!("the end of its log:\n{}", tail(&log)))),
        };
        let rest = Rest::new(&running.http, &data)?;
        // It is nobody else's, so nobody is locked out.
        rest.require_passwords().await.context("cannot require passwords")?;
        Ok(Self {
            rest,
            pids: vec![pid],
            mqtt: vec![address(&running.mqtt).await?],
            mqtt_tls: vec![address(&running.mqtt_tls).await?],
            http: http_address(&running.http).await?,
            own: Some(own),
        })
    }

    pub(crate) const fn http(&self) -> SocketAddr {
        self.http
    }

    pub(crate) fn mqtt(&self) -> Vec<SocketAddr> {
        self.mqtt.clone()
    }

    /// An error when no such address is known.
    pub(crate) fn mqtt_tls(&self) -> Result<Vec<SocketAddr>> {
        ensure!(
            !self.mqtt_tls.is_empty(),
            "where the platform serves MQTT over TLS is not known; name it with --mqtt-tls"
        );
        Ok(self.mqtt_tls.clone())
    }

    /// True when this program started it, and stops it at the end.
    pub(crate) const fn is_own(&self) -> bool {
        self.own.is_some()
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
    /// Waits until the platform serves, and gives back where.
    async fn ready(&mut self, data: &Path) -> Result<Running> {
        let client = reqwest::Client::builder().timeout(Duration::from_secs(2)).build()?;
        let start = Instant::now();
        while start.elapsed() < READY_WITHIN {
            if let Some(status) = self.process.try_wait()? {
                bail!("the platform ended with {status} while it started");
            }
            if let Ok(running) = Running::read(data) {
                let answer = client.get(format!("{}/ready", running.http)).send().await;
                if answer.is_ok_and(|answer| answer.status().is_success()) {
                    return Ok(running);
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        bail!("the platform was not ready within {READY_WITHIN:?}")
    }
}

/// The address of a plain HTTP URL.
async fn http_address(url: &str) -> Result<SocketAddr> {
    let Some(authority) = url.strip_prefix("http://").map(|rest| rest.trim_end_matches('/')) else {
        bail!(
            "the platform's REST address {url} must start with http://: the devices of the load speak plain HTTP"
        );
    };
    address(authority).await
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
