//! Finding programs and folders.

use std::env;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The user id that this process runs as.
pub(crate) fn user_id() -> u32 {
    tempfile::tempfile()
        .and_then(|file| file.metadata())
        .expect("the folder for temporary files must be writable")
        .uid()
}

/// A folder for files that all test processes of this user share.
pub(crate) fn own_folder(name: &str) -> PathBuf {
    let folder = env::temp_dir().join(format!("bandar-testkit-{}", user_id())).join(name);
    std::fs::create_dir_all(&folder)
        .unwrap_or_else(|error| panic!("cannot make {}: {error}", folder.display()));
    folder
}

/// The path of `nats-server`.
pub(crate) fn nats_server() -> PathBuf {
    if let Some(path) = env::var_os("BANDAR_NATS_SERVER") {
        return path.into();
    }
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/bin/nats-server");
    if fetched.is_file() {
        return fetched;
    }
    in_path("nats-server").unwrap_or_else(|| {
        panic!(
            "nats-server was not found: run `deploy/prerequisites.sh test`, or put nats-server 2.10 or newer into the PATH, or set \
             BANDAR_NATS_SERVER to its path"
        )
    })
}

/// The folder with PostgreSQL's server programs.
pub(crate) fn postgres_bin() -> PathBuf {
    if let Some(path) = env::var_os("BANDAR_POSTGRES_BIN") {
        return path.into();
    }
    newest_debian_postgres().or_else(|| Some(in_path("initdb")?.parent()?.to_owned())).unwrap_or_else(|| {
        panic!(
            "PostgreSQL was not found: run `apt-get install -y postgresql`, or set BANDAR_POSTGRES_BIN to the folder of \
             initdb, or set BANDAR_TEST_POSTGRES_URL to a running server"
        )
    })
}

/// Debian keeps the programs of each major version in a folder of its own, outside of the PATH.
fn newest_debian_postgres() -> Option<PathBuf> {
    std::fs::read_dir("/usr/lib/postgresql")
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .max()
        .map(|version| PathBuf::from(format!("/usr/lib/postgresql/{version}/bin")))
        .filter(|folder| folder.join("initdb").is_file())
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Runs a program to its end.
///
/// # Panics
/// When it cannot be started or fails, with what it printed.
pub(crate) fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?} failed ({}):\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
