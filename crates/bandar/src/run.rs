//! `bandar run` and `bandar check-config`: services that work with servers which run already.

use runtime::{Faults, Platform, Settings};

use crate::cli::{CheckConfig, Run};
use crate::services::{self, Part};
use crate::settings::{check, entries, fault, install_telemetry, is_set};

/// Runs the named services until a signal asks to stop.
pub(crate) async fn run(arguments: Run) -> anyhow::Result<()> {
    let parts = services::named(&arguments.services).map_err(|message| fault("bandar run", message))?;
    let settings = Settings::load(arguments.configuration.config.as_deref(), Vec::new())?;
    check_all(&settings, &parts)?;
    crate::limits::raise_open_files();
    let telemetry = install_telemetry(&settings)?;
    let names = services::names();
    let mut platform =
        Platform::start(&settings, &entries(&parts), &names, Some(telemetry.registry())).await?;
    tracing::info!(http = %platform.http_address(), "starting {}", arguments.services.join(", "));
    let opened = tokio::select! {
        ready = platform.ready() => ready.map(|()| true),
        signal = runtime::stop_signal() => signal.map(|()| false),
    };
    let ended = match opened {
        Ok(true) => {
            tracing::info!("ready");
            platform.run_until_stopped().await
        }
        Ok(false) => platform.stop().await,
        Err(error) => platform.stop().await.and(Err(error)),
    };
    telemetry.shutdown();
    ended
}

/// Reports every fault of the configuration.
pub(crate) fn check_config(arguments: &CheckConfig) -> anyhow::Result<()> {
    let parts = if arguments.services.is_empty() {
        services::all()
    } else {
        services::named(&arguments.services).map_err(|message| fault("bandar check-config", message))?
    };
    let settings = Settings::load(arguments.configuration.config.as_deref(), Vec::new())?;
    check_all(&settings, &parts)?;
    crate::say("the configuration has no faults\n")
}

/// The faults of the configuration, and of the servers' addresses, which have no defaults here.
fn check_all(settings: &Settings, parts: &[Part]) -> Result<(), Faults> {
    let mut faults = check(settings, parts).err().map(|faults| faults.0).unwrap_or_default();
    let mut missing = |key: &str, message: &str| {
        if !is_set(settings, key) && !faults.iter().any(|fault| fault.key == key) {
            faults.extend(fault(key, message).0);
        }
    };
    missing(
        "nats.url",
        "is not set; set NATS_URL to nats://user:password@host:4222 (`bandar up` brings a server of its own)",
    );
    if parts.iter().any(|part| part.stores) {
        let message = "is not set; set DATABASE_URL to postgres://user:password@host:5432/database \
                       (`bandar up` brings a server of its own)";
        missing("postgres.url", message);
    }
    if faults.is_empty() { Ok(()) } else { Err(Faults(faults)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_must_be_named_for_those_that_need_them() {
        let settings = Settings::from_layers(None, Vec::new(), Vec::new()).unwrap();
        let keys = |services: &[&str]| -> Vec<String> {
            let names: Vec<String> = services.iter().map(ToString::to_string).collect();
            let faults = check_all(&settings, &services::named(&names).ok().unwrap()).unwrap_err();
            faults.0.into_iter().map(|fault| fault.key).filter(|key| key.ends_with(".url")).collect()
        };
        assert_eq!(keys(&["kpc"]), ["nats.url"]);
        assert_eq!(keys(&["kpc", "epts"]), ["nats.url", "postgres.url"]);
    }
}
