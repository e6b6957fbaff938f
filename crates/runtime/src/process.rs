//! The frame of a process: threads, the exit code, signals.

use std::future::Future;
use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{Faults, Platform};

/// The exit code for a faulty configuration (`EX_USAGE` of sysexits).
const EXIT_CONFIGURATION: u8 = 64;

/// Runs a process's future on a multi-threaded tokio runtime and makes an exit code of its end: 0, 64 for faults in the
/// configuration, else 1, with the whole chain of causes on standard error.
pub fn main<Fut: Future<Output = anyhow::Result<()>>>(body: impl FnOnce() -> Fut) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&anyhow::anyhow!(error).context("the runtime cannot start")),
    };
    match runtime.block_on(body()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

#[expect(clippy::print_stderr, reason = "the last words of a process; the log may not be installed yet")]
fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    if error.is::<Faults>() { ExitCode::from(EXIT_CONFIGURATION) } else { ExitCode::FAILURE }
}

/// SIGINT and SIGTERM, heard from the moment when this is made on: one that comes while nobody waits for it is not lost.
pub struct StopSignal {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignal {
    /// Begins to hear. From now on neither signal ends the process by itself.
    pub fn listen() -> anyhow::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for the next one.
    pub async fn received(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => tracing::info!("SIGINT: stopping; once more to leave at once"),
            _ = self.terminate.recv() => tracing::info!("SIGTERM: stopping; once more to leave at once"),
        }
    }
}

impl Platform {
    /// Runs until a signal asks to stop or a service fails, then stops in order. A second signal leaves at once. The
    /// end is an error if a service failed or did not finish in time.
    pub async fn run_until_stopped(mut self, stop: &mut StopSignal) -> anyhow::Result<()> {
        let failure = tokio::select! {
            () = stop.received() => None,
            error = self.failed() => Some(error),
        };
        if let Some(error) = &failure {
            tracing::error!(error = format!("{error:#}"), "stopping because of a failure");
        }
        let stopped = tokio::select! {
            stopped = self.stop() => stopped,
            () = stop.received() => Err(anyhow::anyhow!("left at once on a second signal; work may be unfinished")),
        };
        failure.map_or(stopped, Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_signal_that_comes_while_nobody_waits_is_not_lost() {
        let mut stop = StopSignal::listen().unwrap();
        let sent = tokio::process::Command::new("kill")
            .args(["-TERM", &std::process::id().to_string()])
            .status()
            .await
            .unwrap();
        assert!(sent.success());
        stop.received().await;
    }
}
