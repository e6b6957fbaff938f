//! A process that runs one extension.

use std::process::ExitCode;
use std::sync::Arc;

use runtime::{Context, Platform, Service, Settings, StopSignal, Subjects, entry, telemetry};

use crate::{Extension, Limits, registration, serve, topics};

/// An extension without settings of its own, as a service.
struct Alone<E>(std::marker::PhantomData<E>);

impl<E: Extension + Default> Service for Alone<E> {
    const NAME: &'static str = E::NAME;
    type Config = NoConfig;

    fn subjects() -> Subjects {
        let own = registration::subjects();
        if E::TOPICS.is_empty() { own } else { topics::topic_subjects(own) }
    }

    async fn start(_config: NoConfig, context: Context) -> anyhow::Result<()> {
        serve(&context, Arc::new(E::default()), Limits::default()).await.map(drop)
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct NoConfig {}

/// Runs an extension as a process of its own: configuration from the environment (`NATS_URL`, `BANDAR__...`), HTTP with
/// `/health`, `/ready` and `/metrics` at `http.listen`, an orderly stop on SIGINT and SIGTERM.
#[must_use]
pub fn main<E: Extension + Default>() -> ExitCode {
    runtime::main(|| async {
        // No REST interface, no callers to ask the tenant manager about.
        let no_callers = ("http.auth.tenant_manager".to_owned(), "false".to_owned());
        let settings = Settings::load(None, vec![no_callers]);
        let telemetry = telemetry::install(&settings.section(telemetry::SECTION).map_err(runtime::Faults)?)?;
        let entries = [entry::<Alone<E>>()];
        let platform = Platform::start(&settings, &entries, &[E::NAME], Some(telemetry.registry())).await?;
        let mut stop = StopSignal::listen()?;
        let end = platform.run_until_stopped(&mut stop).await;
        telemetry.shutdown();
        end
    })
}
