//! The platform's own PostgreSQL.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal};

use super::account::{Account, give};
use super::child::{self, Launch, Program};
use super::place::Place;
use super::{ports, programs};
use crate::data::{DataDir, Secrets, write_private};

const USER: &str = "bandar";
const DATABASE: &str = "bandar";
/// A server of an earlier run, told to stop by the death of its bandar, may need this long for its last checkpoint.
const LEFTOVER_PATIENCE: Duration = Duration::from_secs(30);
const LEFTOVER_POLL: Duration = Duration::from_millis(20);

/// Written to the end of a new cluster's `postgresql.conf`, where the operator may change it.
const SETTINGS: &str = "
# Chosen by bandar for a small machine; change them as you like, they are not written again.
# A receipt means that the data is on the disk: leave fsync, synchronous_commit and full_page_writes on.
max_connections = 200
# The last point of a series is looked for in all partitions at once.
max_locks_per_transaction = 256
shared_buffers = 128MB
max_wal_size = 2GB
min_wal_size = 256MB
checkpoint_timeout = 15min
checkpoint_completion_target = 0.9
jit = off
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = ''
# Statements and details may hold tokens, which belong in no log.
log_error_verbosity = terse
log_min_error_statement = panic
log_checkpoints = off
";

/// A PostgreSQL server on a unix socket and the loopback interface.
pub(crate) struct Postgres {
    programs: programs::Postgres,
    place: Place,
    port: u16,
    password: String,
}

impl Postgres {
    /// Finds the program and the place, and makes the cluster when there is none.
    pub(crate) fn new(data: &DataDir, secrets: &Secrets) -> anyhow::Result<Self> {
        let account = Account::for_postgres()?;
        let place = Place::find(data, account)?;
        let cluster = place.cluster();
        let major = match std::fs::read_to_string(cluster.join("PG_VERSION")) {
            Ok(version) => Some(version.trim().parse().context("PG_VERSION of the data holds no version")?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", cluster.display())),
        };
        let programs = programs::postgres(major)?;
        if major.is_none() {
            make_cluster(&programs, &place, secrets)?;
        }
        clear_leftovers(&cluster, &|| true)?;
        let port = ports::kept(&place.home().join("port"))?;
        Ok(Self { programs, place, port, password: secrets.database_password.clone() })
    }

    /// Where the services connect to: the socket, which is a third faster than TCP.
    pub(crate) fn settings(&self) -> [(&'static str, String); 1] {
        let socket = self.place.sockets().to_string_lossy().bytes().fold(String::new(), |mut text, byte| {
            if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
                text.push(char::from(byte));
            } else {
                text.push_str(&format!("%{byte:02X}"));
            }
            text
        });
        let url =
            format!("postgres://{USER}:{}@localhost:{}/{DATABASE}?host={socket}", self.password, self.port);
        [("postgres.url", url)]
    }
}

/// Makes a cluster with a superuser `postgres`, and a database `bandar` whose owner may make the services' roles but
/// is no superuser. It gets its name only when it is complete, so that an interrupted first start leaves no half one.
fn make_cluster(programs: &programs::Postgres, place: &Place, secrets: &Secrets) -> anyhow::Result<()> {
    tracing::info!("making a database cluster for {} in {}", programs.version, place.home().display());
    let new = place.home().join("cluster.new");
    if new.exists() {
        clear_leftovers(&new, &|| true)?;
        std::fs::remove_dir_all(&new).with_context(|| format!("cannot clear {}", new.display()))?;
    }
    let password = place.home().join("initdb.password");
    write_private(&password, secrets.superuser_password.as_bytes())?;
    give(&password, place.account())?;
    let launch = |program: &str, arguments: Vec<std::ffi::OsString>| Launch {
        program: programs.bin.join(program),
        arguments,
        directory: place.home().to_owned(),
        account: place.account().cloned(),
    };
    let mut arguments: Vec<std::ffi::OsString> = [
        "--username=postgres",
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        "--locale=C.UTF-8",
        "--data-checksums",
        "--pwfile",
    ]
    .map(Into::into)
    .into();
    arguments.extend([password.clone().into(), "-D".into(), new.clone().into()]);
    let made = child::run(&launch("initdb", arguments), "");
    std::fs::remove_file(&password).context("cannot remove the password file of initdb")?;
    made?;

    let config = new.join("postgresql.conf");
    let mut text =
        std::fs::read_to_string(&config).with_context(|| format!("cannot read {}", config.display()))?;
    text.push_str(SETTINGS);
    std::fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;

    let mut arguments: Vec<std::ffi::OsString> = vec!["--single".into(), "-D".into(), new.clone().into()];
    arguments.extend(["-c", "exit_on_error=on", "postgres"].map(Into::into));
    let sql = format!(
        "CREATE ROLE {USER} LOGIN CREATEROLE PASSWORD '{}'\nCREATE DATABASE {DATABASE} OWNER {USER}\n",
        secrets.database_password
    );
    child::run(&launch("postgres", arguments), &sql)?;
    std::fs::rename(&new, place.cluster()).context("cannot give the new cluster its name")
}

/// Waits until no process of an earlier run works in the cluster, and removes a pid file that would mislead the next.
fn clear_leftovers(cluster: &Path, wanted: &dyn Fn() -> bool) -> anyhow::Result<()> {
    let begin = Instant::now();
    let mut told = false;
    loop {
        let pids = processes_in(cluster);
        if pids.is_empty() {
            break;
        }
        if !wanted() {
            bail!("stopped while waiting for an earlier PostgreSQL to end");
        }
        if begin.elapsed() > LEFTOVER_PATIENCE * 2 {
            bail!(
                "processes {pids:?} of an earlier PostgreSQL still work in {}; end them",
                cluster.display()
            );
        }
        if begin.elapsed() > LEFTOVER_PATIENCE {
            // Immediate shutdown: the server ends now and recovers from its log at the next start.
            for pid in &pids {
                let _ = rustix::process::kill_process(*pid, Signal::QUIT);
            }
        }
        if !told && begin.elapsed() > Duration::from_secs(1) {
            tracing::info!("waiting for the PostgreSQL of an earlier run to end");
            told = true;
        }
        std::thread::sleep(LEFTOVER_POLL);
    }
    // The numbers in stale lock files may belong to strangers by now, and PostgreSQL would then refuse to start.
    let file = cluster.join("postmaster.pid");
    let stranger =
        pid_in(&file).is_some_and(|pid| Path::new(&format!("/proc/{}", pid.as_raw_nonzero())).exists());
    if stranger {
        std::fs::remove_file(&file).with_context(|| format!("cannot remove the stale {}", file.display()))?;
    }
    Ok(())
}

/// The living processes of PostgreSQL that work in a cluster: each has it as its working directory.
fn processes_in(cluster: &Path) -> Vec<Pid> {
    let recorded = pid_in(&cluster.join("postmaster.pid"));
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pid_of = |entry: std::fs::DirEntry| entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw);
    let works_there = |pid: &Pid| {
        let process = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
        // `123 (postgres) S ...`; Z is a process that has ended but that nobody has taken note of.
        let stat = std::fs::read_to_string(process.join("stat")).unwrap_or_default();
        if !stat.contains("(postgres)") || stat.contains(") Z ") {
            return false;
        }
        match std::fs::read_link(process.join("cwd")) {
            Ok(directory) => directory == cluster,
            // In some containers even root may not look at other users' processes.
            Err(error) => error.kind() == std::io::ErrorKind::PermissionDenied && recorded == Some(*pid),
        }
    };
    processes.flatten().filter_map(pid_of).filter(works_there).collect()
}

/// The process in the first line of a `postmaster.pid`.
fn pid_in(file: &Path) -> Option<Pid> {
    let text = std::fs::read_to_string(file).ok()?;
    text.lines().next()?.trim().parse().ok().and_then(Pid::from_raw)
}

impl Program for Postgres {
    const NAME: &'static str = "postgresql";
    // Fast shutdown: sessions are ended, a checkpoint is written.
    const DEATH_SIGNAL: &'static str = "INT";
    const STOP: &'static [(Signal, Duration)] = &[
        (Signal::INT, Duration::from_secs(30)),
        (Signal::QUIT, Duration::from_secs(10)),
        (Signal::KILL, Duration::from_secs(5)),
    ];

    fn prepare(&self, wanted: &dyn Fn() -> bool) -> anyhow::Result<Launch> {
        clear_leftovers(&self.place.cluster(), wanted)?;
        self.place.clear_sockets()?;
        let mut arguments: Vec<std::ffi::OsString> = vec!["-D".into(), self.place.cluster().into()];
        let mut set = |setting: String| arguments.extend(["-c".into(), setting.into()]);
        set(format!("port={}", self.port));
        set("listen_addresses=127.0.0.1".to_owned());
        // A quoted entry of a list.
        let sockets = self.place.sockets().to_string_lossy().replace('"', "\"\"");
        set(format!("unix_socket_directories=\"{sockets}\""));
        set("unix_socket_permissions=0700".to_owned());
        Ok(Launch {
            program: self.programs.bin.join("postgres"),
            arguments,
            directory: self.place.home().to_owned(),
            account: self.place.account().cloned(),
        })
    }

    /// The server writes its state into the last line of its pid file.
    fn is_ready(&self, pid: Pid) -> bool {
        let file = self.place.cluster().join("postmaster.pid");
        let Ok(text) = std::fs::read_to_string(&file) else { return false };
        pid_in(&file) == Some(pid) && text.lines().nth(7).is_some_and(|state| state.starts_with("ready"))
    }

    fn level<'a>(&self, line: &'a str) -> (tracing::Level, &'a str) {
        let level = match line.split_once(':').map(|(mark, _)| mark) {
            Some("PANIC") => tracing::Level::ERROR,
            // What it says to each session when it is asked to stop.
            Some("FATAL") if line.contains("due to administrator command") => tracing::Level::DEBUG,
            Some("FATAL" | "WARNING") => tracing::Level::WARN,
            // An ERROR is answered to the service that caused it, which reports it if it matters.
            _ => tracing::Level::DEBUG,
        };
        (level, line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_of_a_pid_file_counts() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("postmaster.pid");
        assert_eq!(pid_in(&file), None);
        std::fs::write(&file, "4711\n/data\n").unwrap();
        assert_eq!(pid_in(&file), Pid::from_raw(4711));
    }

    #[test]
    fn a_pid_file_with_a_strangers_number_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("postmaster.pid");
        std::fs::write(&file, format!("{}\n", std::process::id())).unwrap();
        clear_leftovers(directory.path(), &|| true).unwrap();
        assert!(!file.exists());
    }
}
