//! `bandar run` and `bandar check-config`: services that work with servers which run already.

use runtime::{Entry, Faults, Platform, Settings, StopSignal};

use crate::cli::{CheckConfig, Run};
use crate::services;
use crate::settings::{fault, install_telemetry, is_set};

/// Settings without which a service finds no server, and how to set them.
const SERVERS: [(&str, &str); 2] = [
    ("nats.url", "is not set; set NATS_URL to nats://user:password@host:4222"),
    ("postgres.url", "is not set; set DATABASE_URL to postgres://user:password@host:5432/database"),
];

/// Runs the named services until a signal asks to stop.
pub(crate) async fn run(arguments: Run) -> anyhow::Result<()> {
    let entries = services::named(&arguments.services).map_err(|message| fault("bandar run", message))?;
    let settings = Settings::load(arguments.configuration.config.as_deref(), Vec::new());
    check(&settings, &entries)?;
    crate::limits::raise_open_files();
    let telemetry = install_telemetry(&settings)?;
    let names = services::names();
    let platform = Platform::start(&settings, &entries, &names, Some(telemetry.registry())).await?;
    tracing::info!(http = %platform.http_address(), "starting {}", arguments.services.join(", "));
    let opened = async || {
        tracing::info!("ready");
        Ok(())
    };
    let ended = until_stopped(platform, opened).await;
    telemetry.shutdown();
    ended
}

/// Reports every fault of the configuration.
pub(crate) fn check_config(arguments: &CheckConfig) -> anyhow::Result<()> {
    let entries = if arguments.services.is_empty() {
        services::all()
    } else {
        services::named(&arguments.services).map_err(|message| fault("bandar check-config", message))?
    };
    let settings = Settings::load(arguments.configuration.config.as_deref(), Vec::new());
    check(&settings, &entries)?;
    crate::say("the configuration has no faults\n")
}

/// Waits until the services serve, does what is to be done then, and runs until a signal asks to stop.
pub(crate) async fn until_stopped(
    mut platform: Platform,
    opened: impl AsyncFnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    // One for all the time: a signal that comes as soon as this is ready must be heard too.
    let mut stop = StopSignal::listen()?;
    let opening = async {
        platform.ready().await?;
        opened().await
    };
    let opened = tokio::select! {
        opened = opening => opened.map(|()| true),
        () = stop.received() => Ok(false),
    };
    match opened {
        Ok(true) => platform.run_until_stopped(&mut stop).await,
        Ok(false) => platform.stop().await,
        Err(error) => {
            if let Err(late) = platform.stop().await {
                tracing::warn!(error = format!("{late:#}"), "the services did not stop as they should");
            }
            Err(error)
        }
    }
}

/// The faults of the configuration; the addresses of the servers have no defaults here.
fn check(settings: &Settings, entries: &[Entry]) -> Result<(), Faults> {
    let found = Platform::check(settings, entries, &services::names()).err();
    let mut faults = found.map(|faults| faults.0).unwrap_or_default();
    for (key, message) in SERVERS {
        let reported = faults.iter().position(|fault| fault.key == key);
        match reported {
            _ if is_set(settings, key) => {}
            Some(at) => message.clone_into(&mut faults[at].message),
            None if key == "nats.url" => faults.extend(fault(key, message).0),
            // Nothing that was named keeps data.
            None => {}
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(Faults(faults)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_must_be_named_for_those_that_need_them() {
        let settings = Settings::from_layers(None, Vec::new(), Vec::new());
        let keys = |services: &[&str]| -> Vec<String> {
            let names: Vec<String> = services.iter().map(ToString::to_string).collect();
            let faults = check(&settings, &services::named(&names).ok().unwrap()).unwrap_err();
            let mut keys: Vec<String> = faults.0.into_iter().map(|fault| fault.key).collect();
            keys.retain(|key| key.ends_with(".url"));
            keys.sort_unstable();
            keys
        };
        assert_eq!(keys(&["kpc"]), ["nats.url"]);
        assert_eq!(keys(&["kpc", "epts"]), ["nats.url", "postgres.url"]);
    }
}
