//! Finds nats-server and PostgreSQL on this machine.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

const NATS_VARIABLE: &str = "BANDAR_NATS_SERVER";
const POSTGRES_VARIABLE: &str = "BANDAR_POSTGRES_BIN";
/// Where Debian and Ubuntu keep PostgreSQL's programs, one directory per major version.
const POSTGRES_VERSIONS: &str = "/usr/lib/postgresql";
/// What the migrations are written for.
const POSTGRES_MAJOR_MIN: u32 = 15;

/// PostgreSQL's programs in one directory.
#[derive(Debug, Clone)]
pub(crate) struct Postgres {
    pub(crate) bin: PathBuf,
    pub(crate) major: u32,
    /// As it calls itself, for messages.
    pub(crate) version: String,
}

/// The search path of this process, or the usual one.
pub(crate) fn search_path() -> OsString {
    std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into())
}

/// Finds nats-server: `BANDAR_NATS_SERVER`, `.tools/bin` (see [`tool_directories`]), then the search path, where a
/// distribution may have put one that is too old.
pub(crate) fn nats_server() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os(NATS_VARIABLE).map(PathBuf::from) {
        if !is_file(&path) {
            bail!("{NATS_VARIABLE} names {}, which is not a file", path.display());
        }
        return Ok(path);
    }
    let directories =
        tool_directories().into_iter().chain(std::env::split_paths(&search_path())).collect::<Vec<_>>();
    let found = directories.iter().map(|directory| directory.join("nats-server")).find(|path| is_file(path));
    found.with_context(|| {
        format!(
            "nats-server was not found. Install it (`deploy/prerequisites.sh run` puts it into .tools), name it in {NATS_VARIABLE}, or set NATS_URL to use a server that runs already"
        )
    })
}

/// Finds PostgreSQL: `BANDAR_POSTGRES_BIN`, Debian's directories, then the search path. The version must be the one of
/// the data where data exists (`wanted`), otherwise the newest is taken.
pub(crate) fn postgres(wanted: Option<u32>) -> anyhow::Result<Postgres> {
    let directories: Vec<PathBuf> = match std::env::var_os(POSTGRES_VARIABLE) {
        Some(directory) => vec![directory.into()],
        None => {
            let versions = std::fs::read_dir(POSTGRES_VERSIONS).into_iter().flatten().flatten();
            let debian = versions.map(|version| version.path().join("bin"));
            // The last of the same version is taken, and the search path may hold mere wrappers.
            std::env::split_paths(&search_path()).chain(debian).collect()
        }
    };
    let mut found = Vec::new();
    for bin in
        directories.into_iter().filter(|bin| is_file(&bin.join("initdb")) && is_file(&bin.join("postgres")))
    {
        let output = Command::new(bin.join("postgres")).arg("--version").output();
        let output = output.with_context(|| format!("cannot run {}/postgres", bin.display()))?;
        let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if let Some(major) = major_of(&version) {
            found.push(Postgres { bin, major, version });
        }
    }
    choose(found, wanted)
}

fn choose(mut found: Vec<Postgres>, wanted: Option<u32>) -> anyhow::Result<Postgres> {
    found.sort_by_key(|postgres| postgres.major);
    let majors = found.iter().map(|postgres| postgres.major.to_string()).collect::<Vec<_>>().join(", ");
    let elsewhere = format!(
        "name its directory in {POSTGRES_VARIABLE}, or set DATABASE_URL to use a server that runs already"
    );
    if let Some(wanted) = wanted {
        let same = found.into_iter().rfind(|postgres| postgres.major == wanted);
        return same.with_context(|| {
            format!(
                "the data was made by PostgreSQL {wanted}, found were: {}. Install the package postgresql-{wanted}, {elsewhere}",
                if majors.is_empty() { "none" } else { &majors }
            )
        });
    }
    match found.pop() {
        Some(newest) if newest.major >= POSTGRES_MAJOR_MIN => Ok(newest),
        Some(newest) => {
            bail!("found only {}; version {POSTGRES_MAJOR_MIN} or newer is needed", newest.version)
        }
        None => bail!(
            "PostgreSQL was not found. Install the package postgresql-{POSTGRES_MAJOR_MIN}, {elsewhere}"
        ),
    }
}

/// `.tools/bin` of the working directory and of every directory above the executable, so that a binary under
/// `target/` finds what `deploy/prerequisites.sh` installed beside it.
fn tool_directories() -> Vec<PathBuf> {
    let executable = std::env::current_exe().unwrap_or_default();
    let above = executable.ancestors().skip(1).map(Path::to_owned);
    std::env::current_dir().into_iter().chain(above).map(|directory| directory.join(".tools/bin")).collect()
}

fn is_file(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file())
}

/// The major version in `postgres (PostgreSQL) 15.18 (Debian ...)`.
fn major_of(version: &str) -> Option<u32> {
    let (_, number) = version.split_once("(PostgreSQL) ")?;
    let digits = number.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions(majors: &[u32]) -> Vec<Postgres> {
        let postgres = |major: &u32| Postgres {
            bin: PathBuf::new(),
            major: *major,
            version: format!("PostgreSQL {major}"),
        };
        majors.iter().map(postgres).collect()
    }

    #[test]
    fn versions_are_read() {
        assert_eq!(major_of("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"), Some(15));
        assert_eq!(major_of("postgres (PostgreSQL) 18beta1"), Some(18));
        assert_eq!(major_of("something else"), None);
    }

    #[test]
    fn data_needs_its_own_version_and_new_data_gets_the_newest() {
        assert_eq!(choose(versions(&[17, 15]), None).unwrap().major, 17);
        assert_eq!(choose(versions(&[17, 15]), Some(15)).unwrap().major, 15);
        let error = choose(versions(&[17]), Some(15)).unwrap_err().to_string();
        assert!(error.contains("postgresql-15") && error.contains("17"), "{error}");
        assert!(choose(versions(&[13]), None).unwrap_err().to_string().contains("15 or newer"));
        assert!(choose(vec![], None).unwrap_err().to_string().contains("postgresql-15"));
    }
}
