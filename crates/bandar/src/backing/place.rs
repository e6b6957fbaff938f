//! Where PostgreSQL's files and sockets lie.

use std::fs::DirBuilder;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use sha2::{Digest as _, Sha256};

use super::account::{Account, give};
use super::child::{self, Launch};
use crate::data::DataDir;

/// Used as root when PostgreSQL's user cannot reach the data directory.
const ELSEWHERE: &str = "/var/lib/bandar";
/// A socket's path may have 107 bytes; this leaves room for `/.s.PGSQL.65535`.
const SOCKET_DIRECTORY_BYTES_MAX: usize = 107 - 15;

/// PostgreSQL's directories: `<home>/cluster` with the data, and one for its sockets.
pub(crate) struct Place {
    home: PathBuf,
    sockets: PathBuf,
    account: Option<Account>,
}

impl Place {
    /// Makes the directories, for the account that PostgreSQL runs as.
    pub(crate) fn find(data: &DataDir, account: Option<Account>) -> anyhow::Result<Self> {
        let link = data.path().join("postgres");
        let home = match link.canonicalize() {
            Ok(home) => home,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => make_home(&link, account.as_ref())?,
            Err(error) => return Err(error).with_context(|| format!("cannot reach {}", link.display())),
        };
        if let Some(account) = &account
            && !can_enter(&home, account)
        {
            bail!(
                "user {}, as whom PostgreSQL runs, cannot enter {}: give it access",
                account.name,
                home.display()
            );
        }
        let inside = home.join("sockets");
        let sockets = if inside.as_os_str().len() <= SOCKET_DIRECTORY_BYTES_MAX {
            make_private(&inside, account.as_ref())?;
            inside
        } else {
            sockets_outside(&home.join("sockets.path"), account.as_ref())?
        };
        Ok(Self { home, sockets, account })
    }

    pub(crate) fn home(&self) -> &Path {
        &self.home
    }

    pub(crate) fn cluster(&self) -> PathBuf {
        self.home.join("cluster")
    }

    pub(crate) fn sockets(&self) -> &Path {
        &self.sockets
    }

    /// Removes sockets and their lock files, which a server that was killed leaves behind.
    pub(crate) fn clear_sockets(&self) -> anyhow::Result<()> {
        let entries = std::fs::read_dir(&self.sockets)
            .with_context(|| format!("cannot read {}", self.sockets.display()))?;
        let stale =
            entries.flatten().filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b".s.PGSQL."));
        for path in stale.map(|entry| entry.path()) {
            std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        Ok(())
    }

    pub(crate) fn account(&self) -> Option<&Account> {
        self.account.as_ref()
    }
}

/// `<data>/postgres`, or a symbolic link there to a directory that PostgreSQL's user can reach.
fn make_home(link: &Path, account: Option<&Account>) -> anyhow::Result<PathBuf> {
    if std::fs::symlink_metadata(link).is_ok() {
        bail!(
            "{} leads nowhere: restore {}, where PostgreSQL's data was",
            link.display(),
            target(link).display()
        );
    }
    make_private(link, account)?;
    let Some(account) = account else { return Ok(link.to_owned()) };
    if can_enter(link, account) {
        return Ok(link.to_owned());
    }
    std::fs::remove_dir(link).with_context(|| format!("cannot remove {}", link.display()))?;
    let digest = Sha256::digest(link.as_os_str().as_encoded_bytes());
    let name: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let parent = Path::new(ELSEWHERE).join(&name);
    if parent.exists() {
        // The data directory that it belonged to is gone, and with it the passwords.
        let seconds = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
        let aside = Path::new(ELSEWHERE).join(format!("{name}.{seconds}"));
        std::fs::rename(&parent, &aside)
            .with_context(|| format!("cannot move {} aside", parent.display()))?;
        tracing::warn!(
            "moved the data of a removed data directory to {}; delete it if it is not needed",
            aside.display()
        );
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(&parent)
        .with_context(|| format!("cannot make {}", parent.display()))?;
    let home = parent.join("postgres");
    make_private(&home, Some(account))?;
    tracing::info!(
        "user {} cannot enter {}, so PostgreSQL's data goes to {}",
        account.name,
        link.display(),
        home.display()
    );
    std::os::unix::fs::symlink(&home, link)
        .with_context(|| format!("cannot make the link {}", link.display()))?;
    Ok(home)
}

fn target(link: &Path) -> PathBuf {
    std::fs::read_link(link).unwrap_or_default()
}

/// A directory with a short path, remembered in `record` so that the next start uses it again.
fn sockets_outside(record: &Path, account: Option<&Account>) -> anyhow::Result<PathBuf> {
    let owner = account.map_or_else(|| rustix::process::geteuid().as_raw(), |account| account.uid);
    let former = std::fs::read_to_string(record).ok().map(|text| PathBuf::from(text.trim_end()));
    // Anyone may write to the directory for temporary files: only what is still ours alone is used again.
    let is_ours = |path: &PathBuf| {
        let found = std::fs::symlink_metadata(path);
        found.is_ok_and(|found| {
            found.is_dir() && found.uid() == owner && found.permissions().mode() & 0o777 == 0o700
        })
    };
    if let Some(former) = former.filter(is_ours) {
        return Ok(former);
    }
    let new = std::env::temp_dir().join(format!("bandar-{:016x}", rand::random::<u64>()));
    make_private(&new, account)?;
    std::fs::write(record, new.as_os_str().as_encoded_bytes())
        .with_context(|| format!("cannot write {}", record.display()))?;
    Ok(new)
}

/// Makes a directory that only the account may enter, if it is not there.
fn make_private(path: &Path, account: Option<&Account>) -> anyhow::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => give(path, account),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot make {}", path.display())),
    }
}

fn can_enter(directory: &Path, account: &Account) -> bool {
    let launch = Launch {
        program: "sh".into(),
        arguments: vec!["-c".into(), r#"cd "$0""#.into(), directory.into()],
        directory: "/".into(),
        account: Some(account.clone()),
    };
    child::run(&launch, "").is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_outside_are_used_again_only_while_they_are_ours() {
        let directory = tempfile::tempdir().unwrap();
        let record = directory.path().join("sockets.path");
        let first = sockets_outside(&record, None).unwrap();
        assert_eq!(sockets_outside(&record, None).unwrap(), first);
        std::fs::set_permissions(&first, std::fs::Permissions::from_mode(0o777)).unwrap();
        let second = sockets_outside(&record, None).unwrap();
        assert_ne!(second, first);
        std::fs::remove_dir(first).unwrap();
        std::fs::remove_dir(second).unwrap();
    }

    #[test]
    fn a_link_that_leads_nowhere_is_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("postgres");
        std::os::unix::fs::symlink("/nowhere/postgres", &link).unwrap();
        let error = make_home(&link, None).unwrap_err().to_string();
        assert!(error.contains("/nowhere/postgres"), "{error}");
    }
}
