//! The platform's own nats-server.

use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use runtime::NatsUser;
use rustix::process::{Pid, Signal};

use super::child::{Launch, Program};
use super::ports;
use crate::data::{DataDir, Secrets, write_private};
use crate::nats_users;

/// Bounds of JetStream, which holds the register of extensions and, later, spilled telemetry.
const JETSTREAM_MEMORY: &str = "256MB";
const JETSTREAM_FILES: &str = "10GB";
const PROBE: Duration = Duration::from_millis(200);

/// A nats-server on the loopback interface, with JetStream and a user for each service.
pub(crate) struct Nats {
    program: PathBuf,
    directory: PathBuf,
    config: PathBuf,
    port: u16,
}

impl Nats {
    /// Finds the program, chooses the port and writes the configuration.
    pub(crate) fn new(data: &DataDir, secrets: &Secrets, users: &[NatsUser]) -> anyhow::Result<Self> {
        let program = super::programs::nats_server()?;
        let directory = data.path().join("nats");
        std::fs::create_dir_all(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        let port = ports::kept(&directory.join("port"))?;
        let config = directory.join("nats-server.conf");
        let authorization = nats_users::authorization(users, |user| {
            serde_json::Value::from(secrets.nats_password(user)).to_string()
        });
        write_private(&config, configuration(&directory, port, &authorization).as_bytes())?;
        Ok(Self { program, directory, config, port })
    }

    /// Where the services connect to.
    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }
}

fn configuration(directory: &Path, port: u16, authorization: &str) -> String {
    let store = directory.join("jetstream");
    // Quoted as JSON: nats-server reads the same escapes.
    let store = serde_json::Value::from(store.to_string_lossy());
    format!(
        "# Written by bandar at each start; changes do not last.\n\
         server_name: bandar\n\
         listen: \"127.0.0.1:{port}\"\n\
         logtime: false\n\
         jetstream {{ store_dir: {store}, max_memory_store: {JETSTREAM_MEMORY}, max_file_store: {JETSTREAM_FILES} }}\n\
         {authorization}"
    )
}

impl Program for Nats {
    const NAME: &'static str = "nats-server";
    // What must be durable lies in PostgreSQL, and JetStream recovers its files: nothing is gained by a slow end.
    const DEATH_SIGNAL: &'static str = "KILL";
    const STOP: &'static [(Signal, Duration)] =
        &[(Signal::TERM, Duration::from_secs(10)), (Signal::KILL, Duration::from_secs(5))];

    fn prepare(&self, _wanted: &dyn Fn() -> bool) -> anyhow::Result<Launch> {
        Ok(Launch {
            program: self.program.clone(),
            arguments: vec!["-c".into(), self.config.clone().into()],
            directory: self.directory.clone(),
            account: None,
        })
    }

    fn is_ready(&self, _pid: Pid) -> bool {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let Ok(mut stream) = TcpStream::connect_timeout(&address, PROBE) else { return false };
        let mut greeting = [0; 5];
        stream.set_read_timeout(Some(PROBE)).is_ok()
            && stream.read_exact(&mut greeting).is_ok()
            && &greeting == b"INFO "
    }

    fn level<'a>(&self, line: &'a str) -> (tracing::Level, &'a str) {
        // `[123] [INF] text`
        let line =
            line.strip_prefix('[').and_then(|line| line.split_once("] ")).map_or(line, |(_, rest)| rest);
        let (mark, text) = line.split_once("] ").unwrap_or(("", line));
        match mark {
            "[ERR" | "[FTL" => (tracing::Level::ERROR, text),
            // The file that holds the password is readable to its owner only, and the server to this machine only.
            "[WRN" if text.contains("Plaintext passwords") => (tracing::Level::DEBUG, text),
            "[WRN" => (tracing::Level::WARN, text),
            _ => (tracing::Level::DEBUG, text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_quoted() {
        let text = configuration(Path::new("/tmp/a \"b\" {c}"), 4222, "authorization {}");
        assert!(text.contains(r#"store_dir: "/tmp/a \"b\" {c}/jetstream""#), "{text}");
    }

    #[test]
    fn log_lines_are_taken_apart() {
        let nats =
            Nats { program: PathBuf::new(), directory: PathBuf::new(), config: PathBuf::new(), port: 1 };
        assert_eq!(nats.level("[7] [INF] Server is ready"), (tracing::Level::DEBUG, "Server is ready"));
        assert_eq!(nats.level("[7] [ERR] no space"), (tracing::Level::ERROR, "no space"));
        assert_eq!(nats.level("nats-server: broken"), (tracing::Level::DEBUG, "nats-server: broken"));
    }
}
