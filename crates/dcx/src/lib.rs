#![doc = include_str!("../README.md")]

mod config;
mod plain;
mod receivers;
mod samples;

use std::sync::Arc;

use bytes::Bytes;
use extension::{Endpoint, Extension, Limits, Message, Parameters, Payload, Refusal, Routes};
use ids::AppVersionName;
use ism::dstp;
use runtime::{Applications, Context, Description, LookupError, Service, Subjects};

pub use config::Config;
use config::Settings;
use receivers::Receivers;

/// The JSON Schema of the settings, the same for an application and for a version of it.
const SETTINGS: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../proto-schemas/json/configuration/dcx.app.schema.json"
));

/// The data collection extension: 2/DCP from devices, 13/DSTP to the receivers.
pub struct Dcx {
    config: Config,
    applications: Applications<Settings>,
    receivers: Receivers,
}

impl Service for Dcx {
    const NAME: &'static str = "dcx";
    type Config = Config;

    const DESCRIPTION: Option<Description> = Some(Description {
        group: "Data collection",
        text: "Takes the telemetry of devices",
        app_schema: Some(SETTINGS),
        app_version_schema: Some(SETTINGS),
        tenant_schema: None,
    });

    fn subjects() -> Subjects {
        extension::subjects()
            .reads_configuration()
            .emits(dstp::DATA_SAMPLES_RECEIVED)
            .receives(dstp::DATA_SAMPLES_PROCESSED.protocol)
    }

    fn check(config: &Config) -> Vec<(&'static str, String)> {
        config.faults()
    }

    async fn start(config: Config, context: Context) -> anyhow::Result<()> {
        let limits = Limits { in_flight_max: config.in_flight_messages_max, ..Limits::default() };
        let dcx = Dcx {
            applications: Applications::new(&context).await?,
            receivers: Receivers::new(context.clone()),
            config,
        };
        extension::serve(&context, Arc::new(dcx), limits).await.map(drop)
    }
}

impl Extension for Dcx {
    const NAME: &'static str = "dcx";

    fn routes(routes: Routes<Self>) -> Routes<Self> {
        routes
            .on("json", Dcx::json)
            .on("plain/{metric}", Dcx::plain)
            .on("json/{*rest}", Dcx::json_at_any_path)
    }
}

impl Dcx {
    /// `/json`: one sample of any JSON type, or an array of samples.
    async fn json(
        self: Arc<Self>,
        message: Message,
        from: Endpoint,
        payload: Payload,
    ) -> Result<(), Refusal> {
        let samples = samples::parse(&payload.0, self.config.batch_samples_max)?;
        self.collect(message, from, samples).await
    }

    /// `/json/<anything>`: as `/json`, where the application allows it.
    async fn json_at_any_path(
        self: Arc<Self>,
        message: Message,
        from: Endpoint,
        payload: Payload,
    ) -> Result<(), Refusal> {
        if !self.settings(&from.app_version_name).await?.relaxed_resource_path_validation.enabled {
            return Err(Refusal::not_found(format!(
                "no resource {}; send to /json, or enable relaxed-resource-path-validation for dcx in the application",
                message.resource_path
            )));
        }
        self.json(message, from, payload).await
    }

    /// `/plain/{metric}`: a number, with a unit right behind it if wanted.
    async fn plain(
        self: Arc<Self>,
        message: Message,
        from: Endpoint,
        parameters: Parameters,
        payload: Payload,
    ) -> Result<(), Refusal> {
        let sample = plain::parse(parameters.get("metric"), &payload.0)?;
        self.collect(message, from, vec![sample]).await
    }

    /// Hands the samples to the receivers; positive only when every reliable one has stored all of them.
    async fn collect(&self, message: Message, from: Endpoint, samples: Vec<Bytes>) -> Result<(), Refusal> {
        let settings = self.settings(&from.app_version_name).await?;
        if samples.is_empty() {
            return Ok(());
        }
        let reliable = settings.reliable_receivers.as_ref().filter(|receivers| !receivers.is_empty());
        self.receivers
            .deliver(&message, &from, samples, reliable.unwrap_or(&self.config.reliable_receivers))
            .await
    }

    async fn settings(&self, version: &AppVersionName) -> Result<Settings, Refusal> {
        match self.applications.version(version).await {
            Ok(version) => Ok(version.config.clone()),
            Err(LookupError::Unknown) => {
                Err(Refusal::not_found(format!("unknown application version {version}")))
            }
            Err(error) => Err(Refusal::unavailable(error.to_string())),
        }
    }
}
