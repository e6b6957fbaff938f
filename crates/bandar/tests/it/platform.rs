//! A running `bandar up` in a directory of its own.

use std::fs::File;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use serde_json::Value;
use tempfile::TempDir;
use testkit::eventually;

/// Wide, because a test run keeps all cores busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// A directory for the data that PostgreSQL's user can reach, and for what the process writes.
pub(crate) struct Home {
    directory: TempDir,
}

/// The process. Dropping it kills it, and with it everything that it started.
pub(crate) struct Up {
    process: Child,
    output: PathBuf,
    log: PathBuf,
    pub(crate) http: String,
    pub(crate) api_key: String,
}

/// `bandar` without the settings of whoever runs the tests.
pub(crate) fn bandar(arguments: &[&str]) -> Command {
    // If the test is killed, the thread that started the process is gone, and then the process goes too.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_bandar")]).args(arguments);
    let of_bandar = |name: &str| {
        name.starts_with("BANDAR_") && !matches!(name, "BANDAR_NATS_SERVER" | "BANDAR_POSTGRES_BIN")
    };
    for (name, _) in std::env::vars().filter(|(name, _)| of_bandar(name)) {
        command.env_remove(name);
    }
    command.env_remove("NATS_URL").env_remove("DATABASE_URL").stdin(Stdio::null());
    command
}

impl Home {
    pub(crate) fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("bandar-it-").tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        Self { directory }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Starts `bandar up` on free ports and waits until it is ready.
    pub(crate) async fn up(&self, arguments: &[&str]) -> Up {
        let (output, log) = (self.file("output"), self.file("log"));
        let data = self.data();
        let own = [
            "up",
            "--data",
            data.to_str().unwrap(),
            "--listen-http",
            "127.0.0.1:0",
            "--listen-mqtt",
            "127.0.0.1:0",
        ];
        let mut command = bandar(&[&own, arguments].concat());
        command.stdout(File::create(&output).unwrap()).stderr(File::create(&log).unwrap());
        // What an earlier run that was killed has left behind tells nothing about this one.
        let _ = std::fs::remove_file(data.join("running.json"));
        let process = command.spawn().unwrap();
        let mut up = Up { process, output, log, http: String::new(), api_key: String::new() };
        let running = eventually("bandar up is ready", PATIENCE, async || {
            if let Some(status) = up.process.try_wait().unwrap() {
                panic!("bandar up ended ({status}):\n{}", up.log());
            }
            json(&data.join("running.json"))
        });
        let running = running.await;
        up.http = running["http"].as_str().unwrap().to_owned();
        up.api_key = json(&data.join("credentials.json")).unwrap()["apiKey"].as_str().unwrap().to_owned();
        assert_eq!(running["pid"], up.process.id());
        up
    }
}

impl Up {
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// What it wrote to standard output.
    pub(crate) fn output(&self) -> String {
        std::fs::read_to_string(&self.output).unwrap()
    }

    /// What it wrote to standard error.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// The process ids of its children with this name.
    pub(crate) fn children(&self, name: &str) -> Vec<u32> {
        let own = self.id().to_string();
        let of_process = |entry: std::fs::DirEntry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            // `123 (name) S 122 ...`
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            let (head, tail) = stat.rsplit_once(") ")?;
            let mut fields = tail.split(' ');
            let (state, parent) = (fields.next()?, fields.next()?);
            (state != "Z" && parent == own && head.split_once('(')?.1.starts_with(name)).then_some(pid)
        };
        std::fs::read_dir("/proc").unwrap().flatten().filter_map(of_process).collect()
    }

    pub(crate) async fn status(&self, path: &str) -> Option<u16> {
        let response = self.client().get(format!("{}{path}", self.http)).send().await.ok()?;
        Some(response.status().as_u16())
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Value {
        let request = self.client().post(format!("{}{path}", self.http)).json(body);
        let response = request.header("x-iamcore-api-key", &self.api_key).send().await.unwrap();
        assert_eq!(response.status(), 201, "{path}");
        response.json().await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let request =
            self.client().get(format!("{}{path}", self.http)).header("x-iamcore-api-key", &self.api_key);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        response.json().await.unwrap()
    }

    fn client(&self) -> reqwest::Client {
        reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build().unwrap()
    }

    /// Sends a signal and waits for the end.
    pub(crate) async fn end(&mut self, signal: Signal) -> ExitStatus {
        send(self.id(), signal);
        let process = &mut self.process;
        eventually("bandar up ends", PATIENCE, async || process.try_wait().unwrap()).await
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(crate) fn send(pid: u32, signal: Signal) {
    rustix::process::kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), signal).unwrap();
}

/// Waits until no process works in the data directory: a child's working directory lies in it.
pub(crate) async fn nobody_works_in(data: &Path) {
    let data = data.canonicalize().unwrap();
    eventually("all children have ended", PATIENCE, async || {
        let mut processes = std::fs::read_dir("/proc").unwrap().flatten();
        let works_there = |entry: std::fs::DirEntry| {
            std::fs::read_link(entry.path().join("cwd")).is_ok_and(|directory| directory.starts_with(&data))
        };
        (!processes.any(works_there)).then_some(())
    })
    .await;
}

pub(crate) fn json(file: &Path) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(file).ok()?).ok()
}
