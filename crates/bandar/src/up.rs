//! `bandar up`: the whole platform on one machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Context as _;
use runtime::telemetry::Telemetry;
use runtime::{Faults, Platform, Settings};

use crate::backing::{Backing, Wanted};
use crate::cli::Up;
use crate::data::{Credentials, DataDir, Running, Secrets};
use crate::run::until_stopped;
use crate::settings::{install_telemetry, is_set};
use crate::{demo, services};

type Overrides = Vec<(String, String)>;

/// Runs everything until a signal asks to stop: the servers first, then the services; in the other order at the end.
pub(crate) async fn up(arguments: Up) -> anyhow::Result<()> {
    let given = load(&arguments, Vec::new());
    check_early(&arguments, &given)?;
    let mqtt = mqtt_listen(&given)?;
    crate::limits::raise_open_files();
    let telemetry = install_telemetry(&given)?;
    let data = DataDir::open(&arguments.data.path)?;
    let (credentials, first_start) = data.credentials()?;
    let secrets = data.secrets()?;
    let mut overrides = own_settings(&given, &credentials, &secrets);
    let wanted = Wanted { nats: !is_set(&given, "nats.url"), postgres: !is_set(&given, "postgres.url") };
    let begin = std::time::Instant::now();
    let (backing, data) = tokio::task::spawn_blocking(move || {
        let backing = Backing::start(wanted, &data, &secrets)?;
        anyhow::Ok((backing, data))
    })
    .await??;
    overrides.extend(backing.settings());
    overrides.push(("kpc.mqtt.listen".to_owned(), mqtt.to_string()));
    tracing::info!("NATS and PostgreSQL are ready after {} ms", begin.elapsed().as_millis());

    let settings = load(&arguments, overrides);
    let ended =
        serve(&arguments, &settings, mqtt, &data, &telemetry, first_start.then_some(&credentials)).await;
    data.withdraw();
    let stopped = tokio::select! {
        stopped = tokio::task::spawn_blocking(move || drop(backing)) => stopped.context("stopping NATS and PostgreSQL"),
        _ = runtime::stop_signal() => {
            // Both are told by the kernel that this process is gone, and stop by themselves.
            tracing::warn!("left before NATS and PostgreSQL have stopped");
            std::process::exit(1);
        }
    };
    tracing::info!("stopped");
    telemetry.shutdown();
    ended.and(stopped)
}

/// Runs the services; `new` are credentials that were made just now and must be shown.
async fn serve(
    arguments: &Up,
    settings: &Settings,
    mqtt: SocketAddr,
    data: &DataDir,
    telemetry: &Telemetry,
    new: Option<&Credentials>,
) -> anyhow::Result<()> {
    let names = services::names();
    let platform = Platform::start(settings, &services::all(), &names, Some(telemetry.registry())).await?;
    let running = Running {
        pid: std::process::id(),
        http: format!("http://{}", from_here(platform.http_address())),
        mqtt: from_here(mqtt).to_string(),
    };
    until_stopped(platform, async || {
        data.announce(&running)?;
        crate::say(&welcome(&running, data, new))?;
        if arguments.demo {
            let target = demo::Target::of_running(&running, data.path())?;
            crate::say(&demo::prepare(&target).await?)?;
        }
        Ok(())
    })
    .await
}

fn load(arguments: &Up, made: Overrides) -> Settings {
    let http = arguments.listen_http.map(|listen| ("http.listen".to_owned(), listen.to_string()));
    let mqtt = arguments.listen_mqtt.map(|listen| ("kpc.mqtt.listen".to_owned(), listen.to_string()));
    // The last one wins: a port that was made for port 0 does.
    Settings::load(
        arguments.configuration.config.as_deref(),
        http.into_iter().chain(mqtt).chain(made).collect(),
    )
}

/// Finds the faults of the configuration before anything is made or started: what is not given is filled with samples
/// of what will be.
fn check_early(arguments: &Up, given: &Settings) -> Result<(), Faults> {
    let text = |value: &str| value.to_owned();
    let credentials = Credentials {
        tenant: text("sample"),
        admin_user: text("sample"),
        admin_password: text("sample"),
        api_key: "k".repeat(40),
    };
    let secrets = Secrets {
        token_key: "ab".repeat(32),
        nats_password: text("sample"),
        superuser_password: text("sample"),
        database_password: text("sample"),
    };
    let mut overrides = own_settings(given, &credentials, &secrets);
    for (key, url) in [("nats.url", "nats://127.0.0.1:4222"), ("postgres.url", "postgres://localhost/bandar")]
    {
        if !is_set(given, key) {
            overrides.push((text(key), text(url)));
        }
    }
    Platform::check(&load(arguments, overrides), &services::all(), &services::names())
}

/// The settings that the first start made, except those that are given otherwise.
fn own_settings(given: &Settings, credentials: &Credentials, secrets: &Secrets) -> Overrides {
    let mut settings = Vec::new();
    let mut set = |key: &str, value: &str| settings.push((key.to_owned(), value.to_owned()));
    if !is_set(given, "http.auth.api_key") && !is_set(given, "http.auth.keys") {
        set("http.auth.tenant", &credentials.tenant);
        set("http.auth.api_key", &credentials.api_key);
    }
    if !is_set(given, "cm.token_key") {
        set("cm.token_key", &secrets.token_key);
    }
    settings
}

/// Where MQTT is served. For port 0 a free one is chosen here, so that it can be told.
fn mqtt_listen(given: &Settings) -> anyhow::Result<SocketAddr> {
    let kpc: kpc::Config = given.section("kpc").map_err(Faults)?;
    let mut listen = kpc.mqtt.listen;
    if listen.port() == 0 {
        let port = crate::backing::ports::free_on(listen.ip());
        listen
            .set_port(port.with_context(|| format!("no free port on {}; set kpc.mqtt.listen", listen.ip()))?);
    }
    Ok(listen)
}

/// The address to connect to from this machine for one that is listened on.
fn from_here(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

fn welcome(running: &Running, data: &DataDir, new: Option<&Credentials>) -> String {
    let file = data.path().join("credentials.json");
    let mut text = format!("\nBandar is ready: HTTP {}, MQTT {}\n", running.http, running.mqtt);
    match new {
        Some(credentials) => text.push_str(&format!(
            "Made for you, shown once, kept in {}:\n  tenant {}, user {}, password {}\n  API key {}\n",
            file.display(),
            credentials.tenant,
            credentials.admin_user,
            credentials.admin_password,
            credentials.api_key
        )),
        None => text.push_str(&format!("Credentials: {}\n", file.display())),
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_shown_as_they_are_reached() {
        let shown = |listen: &str| from_here(listen.parse().unwrap()).to_string();
        assert_eq!(shown("0.0.0.0:8080"), "127.0.0.1:8080");
        assert_eq!(shown("[::]:1883"), "[::1]:1883");
        assert_eq!(shown("192.0.2.7:80"), "192.0.2.7:80");
    }
}
