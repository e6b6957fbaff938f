//! The data directory of `bandar up`: who uses it, and the secrets that were made on the first start.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use rand::RngExt as _;
use rand::distr::Alphanumeric;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

const TENANT: &str = "bandar";
const ADMIN_USER: &str = "admin";

/// A data directory that this process alone uses, until it ends.
pub(crate) struct DataDir {
    path: PathBuf,
    /// The kernel releases the lock when the process ends, however it ends.
    _lock: File,
}

/// What the first start shows: `credentials.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Credentials {
    pub(crate) tenant: String,
    pub(crate) admin_user: String,
    pub(crate) admin_password: String,
    pub(crate) api_key: String,
}

/// What only the platform itself needs: `secrets.json`.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Secrets {
    /// The key under which endpoint tokens are hashed (`cm.token_key`), 32 bytes in hex. Without it no token is valid.
    pub(crate) token_key: String,
    /// The key under which the tenant manager's signing keys are encrypted (`tm.key_encryption_key`).
    #[serde(default)]
    pub(crate) tenant_manager_key: String,
    /// The key under which certificate authorities' keys are encrypted (`ccm.key_encryption_key`).
    #[serde(default)]
    pub(crate) client_credentials_key: String,
    /// The key under which tokens wait that a batch of endpoints was given (`epr.batch_key`).
    #[serde(default)]
    pub(crate) batch_key: String,
    /// The passwords of the users of NATS.
    #[serde(default)]
    nats_passwords: BTreeMap<String, String>,
    /// The password of PostgreSQL's superuser `postgres`.
    pub(crate) superuser_password: String,
    /// The password of the database user `bandar`.
    pub(crate) database_password: String,
    /// What another version of the platform has put here. It is kept: that version may come back, and needs its keys.
    #[serde(flatten)]
    others: serde_json::Map<String, serde_json::Value>,
}

/// Where a running `bandar up` is reached: `running.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Running {
    pub(crate) pid: u32,
    /// `http://host:port`, from this machine.
    pub(crate) http: String,
    /// `host:port`, from this machine.
    pub(crate) mqtt: String,
    /// `https://host:port`, from this machine.
    #[serde(default)]
    pub(crate) https: String,
    /// MQTT over TLS: `host:port`, from this machine.
    #[serde(default)]
    pub(crate) mqtt_tls: String,
    /// MQTT over WebSocket: `ws://host:port/mqtt`, from this machine.
    #[serde(default)]
    pub(crate) mqtt_ws: String,
    /// The same over TLS: `wss://host:port/mqtt`.
    #[serde(default)]
    pub(crate) mqtt_wss: String,
    /// The single TLS port: `host:port`, from this machine; none when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tls_port: Option<String>,
    /// The certificate by which the platform's own is verified.
    #[serde(default)]
    pub(crate) root_certificate: PathBuf,
}

impl Secrets {
    /// Makes what is missing: a later version, a new service or a new extension needs more than was made before. Returns whether
    /// anything was.
    fn complete(&mut self, nats_users: &[String]) -> bool {
        let mut made = false;
        for key in [
            &mut self.token_key,
            &mut self.tenant_manager_key,
            &mut self.client_credentials_key,
            &mut self.batch_key,
        ] {
            if key.is_empty() {
                *key = random_key();
                made = true;
            }
        }
        for password in [&mut self.superuser_password, &mut self.database_password] {
            if password.is_empty() {
                *password = random_text(32);
                made = true;
            }
        }
        for user in nats_users {
            if !self.nats_passwords.contains_key(user) {
                self.nats_passwords.insert(user.clone(), random_text(32));
                made = true;
            }
        }
        made
    }

    /// The password of a user of NATS; empty for one that was not named when the secrets were read.
    pub(crate) fn nats_password(&self, user: &str) -> &str {
        self.nats_passwords.get(user).map_or("", String::as_str)
    }

    /// Secrets that fit anywhere and open nothing, to check a configuration with.
    pub(crate) fn samples() -> Self {
        let mut samples = Self::default();
        samples.complete(&[]);
        samples
    }
}

impl DataDir {
    /// Makes the directory if it is missing and takes it for this process.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        // PostgreSQL may run as another user, who must get through; each secret file is closed to others by itself.
        let mode = if rustix::process::geteuid().is_root() { 0o711 } else { 0o700 };
        DirBuilder::new()
            .recursive(true)
            .mode(mode)
            .create(path)
            .with_context(|| format!("cannot make {shown}"))?;
        let path = path.canonicalize().with_context(|| format!("cannot reach {shown}"))?;
        let file = path.join("lock");
        let lock =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&file);
        let mut lock =
            lock.with_context(|| format!("cannot write to the data directory {}", path.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                drop(lock.read_to_string(&mut holder));
                bail!(
                    "another bandar (process {}) uses {}: stop that one, or choose another directory with --data",
                    holder.trim(),
                    path.display()
                );
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", file.display()));
            }
        }
        lock.set_len(0)?;
        lock.rewind()?;
        writeln!(lock, "{}", std::process::id())?;
        Ok(Self { path, _lock: lock })
    }

    /// The directory, absolute.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The credentials, and whether they were made just now.
    pub(crate) fn credentials(&self) -> anyhow::Result<(Credentials, bool)> {
        self.kept("credentials.json", || Credentials {
            tenant: TENANT.to_owned(),
            admin_user: ADMIN_USER.to_owned(),
            admin_password: random_text(20),
            api_key: random_text(40),
        })
    }

    /// The platform's own secrets; what is missing is made. `nats_users` are those who need a password.
    pub(crate) fn secrets(&self, nats_users: &[String]) -> anyhow::Result<Secrets> {
        let file = self.path.join("secrets.json");
        let mut secrets: Secrets = read_json(&file)?.unwrap_or_default();
        if secrets.complete(nats_users) {
            write_json(&file, &secrets)?;
        }
        Ok(secrets)
    }

    /// Tells other commands on this machine where the platform is reached.
    pub(crate) fn announce(&self, running: &Running) -> anyhow::Result<()> {
        write_json(&self.path.join("running.json"), running)
    }

    /// Takes the announcement back.
    pub(crate) fn withdraw(&self) {
        // Left behind it would do little harm: whoever reads it finds nobody listening.
        drop(std::fs::remove_file(self.path.join("running.json")));
    }

    fn kept<T: Serialize + DeserializeOwned>(
        &self,
        name: &str,
        make: impl FnOnce() -> T,
    ) -> anyhow::Result<(T, bool)> {
        let file = self.path.join(name);
        if let Some(kept) = read_json(&file)? {
            return Ok((kept, false));
        }
        let made = make();
        write_json(&file, &made)?;
        Ok((made, true))
    }
}

/// Reads a JSON file; `None` when it does not exist.
pub(crate) fn read_json<T: DeserializeOwned>(file: &Path) -> anyhow::Result<Option<T>> {
    let text = match std::fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
    };
    let value = serde_json::from_slice(&text);
    value.map(Some).with_context(|| {
        format!("{} is damaged; restore it, or move it away to have it made anew", file.display())
    })
}

/// Writes a JSON file that only its owner may read.
pub(crate) fn write_json(file: &Path, value: &impl Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    write_private(file, &text)
}

/// Writes a file that only its owner may read, whole or not at all.
pub(crate) fn write_private(file: &Path, content: &[u8]) -> anyhow::Result<()> {
    let write = || {
        let new = file.with_extension("new");
        // A leftover may have another mode; the mode below counts only for a new file.
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut handle = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        handle.write_all(content)?;
        handle.sync_all()?;
        std::fs::rename(&new, file)
    };
    write().with_context(|| format!("cannot write {}", file.display()))
}

/// Letters and digits, a letter first, so that no reader of configuration takes it for a number.
fn random_text(length: usize) -> String {
    let mut random = rand::rng();
    let first = char::from(random.random_range(b'a'..=b'z'));
    std::iter::once(first).chain((1..length).map(|_| char::from(random.sample(Alphanumeric)))).collect()
}

fn random_key() -> String {
    rand::random::<[u8; 32]>().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn secrets_are_made_once_and_closed_to_others() {
        let directory = tempfile::tempdir().unwrap();
        let data = DataDir::open(&directory.path().join("a/b")).unwrap();
        let (made, new) = data.credentials().unwrap();
        assert!(new && made.api_key.len() == 40);
        let (kept, new) = data.credentials().unwrap();
        assert!(!new && kept.api_key == made.api_key);
        let secrets = |users: &[&str]| {
            data.secrets(&users.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap()
        };
        let first = secrets(&["cm"]);
        let more = secrets(&["cm", "echo"]);
        assert_eq!(first.token_key, more.token_key);
        assert_eq!(first.nats_password("cm"), more.nats_password("cm"));
        assert!(more.nats_password("echo").len() == 32 && secrets(&[]).nats_password("echo").len() == 32);
        for file in ["credentials.json", "secrets.json", "lock"] {
            let mode = std::fs::metadata(data.path().join(file)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
    }

    #[test]
    fn secrets_of_other_versions_are_completed_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let data = DataDir::open(directory.path()).unwrap();
        let file = data.path().join("secrets.json");
        let former = serde_json::json!({
            "tokenKey": "11", "natsPassword": "former", "superuserPassword": "s", "databasePassword": "d",
            "laterKey": {"of": "a later version"},
        });
        std::fs::write(&file, former.to_string()).unwrap();
        let secrets = data.secrets(&["cm".to_owned()]).unwrap();
        assert_eq!((secrets.token_key.as_str(), secrets.database_password.as_str()), ("11", "d"));
        assert!(secrets.batch_key.len() == 64 && secrets.nats_password("cm").len() == 32);
        let written: serde_json::Value = read_json(&file).unwrap().unwrap();
        for key in ["tokenKey", "natsPassword", "superuserPassword", "databasePassword", "laterKey"] {
            assert_eq!(written[key], former[key], "{key}");
        }
    }

    #[test]
    fn a_directory_has_one_user_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let first = DataDir::open(directory.path()).unwrap();
        let error = DataDir::open(directory.path()).err().unwrap().to_string();
        assert!(error.contains(&std::process::id().to_string()) && error.contains("--data"), "{error}");
        drop(first);
        DataDir::open(directory.path()).unwrap();
    }

    #[test]
    fn a_damaged_file_is_named_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let data = DataDir::open(directory.path()).unwrap();
        std::fs::write(data.path().join("secrets.json"), "{").unwrap();
        let error = data.secrets(&[]).err().unwrap().to_string();
        assert!(error.contains("secrets.json"), "{error}");
        assert_eq!(std::fs::read(data.path().join("secrets.json")).unwrap(), b"{");
    }
}
