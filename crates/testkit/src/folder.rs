//! Folders that do not outlive the test processes for long.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::tool;

/// Marks a folder as in use while it is locked, which the system ends with the process.
const LOCK: &str = "in-use";

/// A folder for the data of a server. Whoever makes the next one removes those whose test process was killed.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let all = tool::own_folder("servers");
        sweep(&all);
        let path = tempfile::Builder::new().prefix(name).tempdir_in(&all).expect("a temporary folder").keep();
        // Locked before it has its name, so that nobody finds it unlocked.
        let making = path.join("making");
        let lock = File::create(&making).expect("a new folder must be writable");
        lock.lock().expect("a new file can be locked");
        std::fs::rename(making, path.join(LOCK)).expect("a new folder must be writable");
        Self { path, _lock: lock }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Removes what killed processes left behind; others may do the same at the same moment.
fn sweep(all: &Path) {
    let Ok(entries) = std::fs::read_dir(all) else { return };
    for folder in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        // One without the file is just being made.
        if File::open(folder.join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok()) {
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_in_use_stay() {
        let used = Folder::new("test-");
        let left = Folder::new("test-").path().to_owned();
        sweep(&tool::own_folder("servers"));
        assert!(used.path().exists());
        assert!(!left.exists());
        std::fs::remove_dir_all(used.path()).unwrap();
    }
}
