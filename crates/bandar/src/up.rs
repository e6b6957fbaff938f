//! `bandar up`: the whole platform on one machine.

use anyhow::Context as _;
use ids::InstanceName;
use runtime::telemetry::Telemetry;
use runtime::{Faults, Platform, Settings, StopSignal};

use crate::backing::{Backing, Wanted};
use crate::cli::Up;
use crate::data::{Credentials, DataDir, Running, Secrets, write_private};
use crate::listeners::Listeners;
use crate::run::until_stopped;
use crate::settings::{install_telemetry, is_set};
use crate::{demo, nats_users, services, tls};

type Overrides = Vec<(String, String)>;

/// Runs everything until a signal asks to stop: the servers first, then the services; in the other order at the end.
pub(crate) async fn up(arguments: Up) -> anyhow::Result<()> {
    let given = load(&arguments, Vec::new());
    check_early(&arguments, &given)?;
    let listeners = Listeners::of(&given, arguments.tls_port)?;
    crate::limits::raise_open_files();
    let telemetry = install_telemetry(&given)?;
    let data = DataDir::open(&arguments.data.path)?;
    let (credentials, first_start) = data.credentials()?;
    let extensions = extensions(&data, &arguments)?;
    let users = nats_users::users(&extensions)?;
    let names: Vec<String> = users.iter().map(|user| user.name.clone()).collect();
    let secrets = data.secrets(&names)?;
    let files = tls::prepare(data.path(), &arguments.tls_names)?;
    let mut overrides = own_settings(&given, &credentials, &secrets);
    overrides.extend(tls_settings(&given, &files));
    let wanted = Wanted { nats: !is_set(&given, "nats.url"), postgres: !is_set(&given, "postgres.url") };
    let begin = std::time::Instant::now();
    let (backing, data) = tokio::task::spawn_blocking(move || {
        let backing = Backing::start(wanted, &data, &secrets, &users)?;
        if let Some(url) = backing.nats_url() {
            write_extensions(&data, url, &secrets, &extensions)?;
        }
        anyhow::Ok((backing, data))
    })
    .await??;
    overrides.extend(backing.settings());
    overrides.extend(listeners.settings());
    tracing::info!("NATS and PostgreSQL are ready after {} ms", begin.elapsed().as_millis());

    let settings = load(&arguments, overrides);
    let ended =
        serve(&arguments, &settings, &listeners, &data, &telemetry, first_start.then_some(&credentials))
            .await;
    data.withdraw();
    let mut impatience = StopSignal::listen()?;
    let stopped = tokio::select! {
        stopped = tokio::task::spawn_blocking(move || drop(backing)) => stopped.context("stopping NATS and PostgreSQL"),
        () = impatience.received() => {
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
    listeners: &Listeners,
    data: &DataDir,
    telemetry: &Telemetry,
    new: Option<&Credentials>,
) -> anyhow::Result<()> {
    let names = services::names();
    let platform = Platform::start(settings, &services::all(), &names, Some(telemetry.registry())).await?;
    drop(tokio::spawn(tls::keep_fresh(data.path().to_owned(), arguments.tls_names.clone())));
    let running = listeners.running(platform.http_address(), data);
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
        admin_password: "p".repeat(20),
        api_key: "k".repeat(40),
    };
    let secrets = Secrets::samples();
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
    let own = [
        ("http.auth.platform_tenant", &credentials.tenant),
        ("tm.bootstrap.tenant", &credentials.tenant),
        ("tm.bootstrap.admin_user", &credentials.admin_user),
        ("tm.bootstrap.admin_password", &credentials.admin_password),
        ("tm.bootstrap.api_key", &credentials.api_key),
        ("tm.key_encryption_key", &secrets.tenant_manager_key),
        ("ccm.key_encryption_key", &secrets.client_credentials_key),
        ("cm.token_key", &secrets.token_key),
        ("epr.batch_key", &secrets.batch_key),
    ];
    let own = own.into_iter().filter(|(key, _)| !is_set(given, key));
    own.map(|(key, value)| (key.to_owned(), value.clone())).collect()
}

/// The certificate that the first start made, where none is given.
fn tls_settings(given: &Settings, files: &tls::Files) -> Overrides {
    let own = [
        ("kpc.mqtt.tls.certificate_file", &files.certificate, "kpc.mqtt.tls.certificate_file"),
        ("kpc.mqtt.tls.key_file", &files.key, "kpc.mqtt.tls.certificate_file"),
        ("kpc.mqtt.tls.ca_file", &files.root, "kpc.mqtt.tls.certificate_file"),
        ("http.tls.certificate_file", &files.certificate, "http.tls.certificate_file"),
        ("http.tls.key_file", &files.key, "http.tls.certificate_file"),
    ];
    let own = own.into_iter().filter(|(_, _, unless)| !is_set(given, unless));
    own.map(|(key, file, _)| (key.to_owned(), file.to_string_lossy().into_owned())).collect()
}

/// The extensions of this start and of earlier ones, which have a file each.
fn extensions(data: &DataDir, arguments: &Up) -> anyhow::Result<Vec<InstanceName>> {
    let mut all = nats_users::extension_names(&arguments.extensions)?;
    for file in std::fs::read_dir(data.path().join("extensions")).into_iter().flatten() {
        let file = file?.path();
        if file.extension().is_none_or(|extension| extension != "env") {
            continue;
        }
        let name = file.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        match nats_users::extension_names(name.as_slice()) {
            Ok(names) => all.extend(names),
            // A later version may have a service of this name. That is no reason not to start.
            Err(error) => tracing::warn!(
                file = %file.display(),
                error = format!("{error:#}"),
                "an extension of an earlier start cannot join any more: rename it, then remove the file"
            ),
        }
    }
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

/// Writes for each extension how it joins the platform, readable to the owner only.
fn write_extensions(
    data: &DataDir,
    nats_url: &str,
    secrets: &Secrets,
    extensions: &[InstanceName],
) -> anyhow::Result<()> {
    let directory = data.path().join("extensions");
    std::fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let Some((_, address)) = nats_url.split_once("://") else { return Ok(()) };
    for name in extensions {
        let password = secrets.nats_password(name.as_str());
        let text = format!("NATS_URL=nats://{name}:{password}@{address}\n");
        write_private(&directory.join(format!("{name}.env")), text.as_bytes())?;
    }
    Ok(())
}

fn welcome(running: &Running, data: &DataDir, new: Option<&Credentials>) -> String {
    let file = data.path().join("credentials.json");
    let mut text = format!(
        "\nBandar is ready: HTTP {}, MQTT {}\n  over TLS: HTTP {}, MQTT {} (certificate authority: {})\n  MQTT over WebSocket: {}, {}\n",
        running.http,
        running.mqtt,
        running.https,
        running.mqtt_tls,
        running.root_certificate.display(),
        running.mqtt_ws,
        running.mqtt_wss,
    );
    if let Some(tls_port) = &running.tls_port {
        text.push_str(&format!("  all over TLS at one port: {tls_port}\n"));
    }
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
