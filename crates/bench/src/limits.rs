//! What the operating system lets this process have.

use anyhow::{Result, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files that are open beside the connections.
const OTHER_FILES: u64 = 200;

/// Raises the limit of open files as far as this user may, and checks that so many connections fit into it.
pub(crate) fn open_files_for(connections: u64) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        // What this user may not have shows below.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
    let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    ensure!(
        connections.saturating_add(OTHER_FILES) <= most,
        "{connections} connections are more than the {most} files that a process may open here: raise that \
         (ulimit -Hn, also for the platform), or ask for fewer connections"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_told() {
        assert!(open_files_for(1).is_ok());
        // The kernel's own limit is far below this.
        let error = open_files_for(1 << 40).unwrap_err().to_string();
        assert!(error.contains("ulimit"), "{error}");
    }
}
