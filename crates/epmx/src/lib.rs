#![doc = include_str!("../README.md")]

mod access;
mod config;
mod patch;
mod payload;
mod repository;

use std::sync::Arc;

use bytes::Bytes;
use extension::{Endpoint, Extension, Json, Limits, Message, Refusal, Routes};
use ids::AppVersionName;
use ism::epmmp::{EP_METADATA_GET_REQUEST, EP_METADATA_KEYS_GET_REQUEST, EP_METADATA_PATCH_REQUEST};
use ism::subject::instance;
use runtime::{Applications, Context, Description, LookupError, Service, Subjects};

pub use config::Config;

use access::Access;
use payload::Values;
use repository::{Asker, Repository};

/// The JSON Schema of the settings, the same for an application and for a version of it.
const SETTINGS: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../proto-schemas/json/configuration/epmx.app.schema.json"
));

/// The endpoint metadata extension: 10/EPMP from devices, 19/EPMMP to the endpoint register.
pub struct Epmx {
    applications: Applications<Access>,
    repository: Repository,
}

impl Service for Epmx {
    const NAME: &'static str = "epmx";
    type Config = Config;

    const DESCRIPTION: Option<Description> = Some(Description {
        group: "Device management",
        text: "Lets devices read and change their metadata",
        app_schema: Some(SETTINGS),
        app_version_schema: Some(SETTINGS),
        tenant_schema: None,
    });

    fn subjects() -> Subjects {
        extension::subjects()
            .reads_configuration()
            .asks(instance::EPR, EP_METADATA_GET_REQUEST)
            .asks(instance::EPR, EP_METADATA_KEYS_GET_REQUEST)
            .asks(instance::EPR, EP_METADATA_PATCH_REQUEST)
    }

    fn check(config: &Config) -> Vec<(&'static str, String)> {
        config.faults()
    }

    async fn start(config: Config, context: Context) -> anyhow::Result<()> {
        let limits = Limits {
            in_flight_max: config.in_flight_messages_max,
            payload_bytes_max: config.payload_bytes_max,
            ..Limits::default()
        };
        let epmx = Epmx {
            applications: Applications::new(&context).await?,
            repository: Repository::new(context.clone(), config.update_attempts_max),
        };
        extension::serve(&context, Arc::new(epmx), limits).await.map(drop)
    }
}

impl Extension for Epmx {
    const NAME: &'static str = "epmx";

    fn routes(routes: Routes<Self>) -> Routes<Self> {
        routes
            .on("get/keys", Epmx::get_keys)
            .on("get", Epmx::get)
            .on("update", Epmx::update)
            .on("update/keys", Epmx::update_keys)
            .on("delete/keys", Epmx::delete_keys)
    }
}

impl Epmx {
    /// `/get/keys`: the keys that the device may see. The payload does not matter.
    async fn get_keys(
        self: Arc<Self>,
        message: Message,
        from: Endpoint,
    ) -> Result<Json<Vec<String>>, Refusal> {
        let access = self.access(&from.app_version_name).await?;
        let mut keys = self.repository.keys(Asker::new(&message, &from)).await?;
        keys.retain(|key| access.is_readable(key));
        Ok(Json(keys))
    }

    /// `/get`: all metadata that the device may see, or the values of the keys that it names.
    async fn get(self: Arc<Self>, message: Message, from: Endpoint) -> Result<Json<Values>, Refusal> {
        let keys = payload::get_request(&message.payload)?;
        let access = self.access(&from.app_version_name).await?;
        access.check_readable(&keys)?;
        let mut values = self.repository.get(Asker::new(&message, &from), keys).await?.values;
        values.retain(|key, _| access.is_readable(key));
        Ok(Json(values))
    }

    /// `/update`: these values in place of all that the device may write.
    async fn update(self: Arc<Self>, message: Message, from: Endpoint) -> Result<(), Refusal> {
        let wanted = payload::update_request(&message.payload)?;
        let access = self.access(&from.app_version_name).await?;
        access.check_writable(wanted.keys())?;
        let change = |current: &Values| {
            let kept = current.iter().filter(|(key, _)| !access.is_writable(key));
            patch::replace_all(kept.chain(&wanted)).map(Some)
        };
        self.repository.change(Asker::new(&message, &from), Vec::new(), change).await
    }

    /// `/update/keys`: these values; the other keys stay.
    async fn update_keys(self: Arc<Self>, message: Message, from: Endpoint) -> Result<(), Refusal> {
        let wanted = payload::update_request(&message.payload)?;
        self.access(&from.app_version_name).await?.check_writable(wanted.keys())?;
        self.repository.set(Asker::new(&message, &from), patch::add(&wanted)?).await
    }

    /// `/delete/keys`: these keys go. One that is not there is as good as deleted: a device that lost the receipt sends
    /// the same again.
    async fn delete_keys(self: Arc<Self>, message: Message, from: Endpoint) -> Result<(), Refusal> {
        let unwanted = payload::delete_request(&message.payload)?;
        self.access(&from.app_version_name).await?.check_writable(&unwanted)?;
        let change = |current: &Values| {
            let present: Vec<&String> = unwanted.iter().filter(|key| current.contains_key(*key)).collect();
            if present.is_empty() { Ok(None) } else { patch::remove(&present).map(Some) }
        };
        self.repository.change(Asker::new(&message, &from), unwanted.clone(), change).await
    }

    /// What devices of the version may do.
    async fn access(&self, version: &AppVersionName) -> Result<Access, Refusal> {
        match self.applications.version(version).await {
            Ok(version) => Ok(version.config.clone()),
            Err(LookupError::Unknown) => {
                Err(Refusal::not_found(format!("unknown application version {version}")))
            }
            Err(error) => Err(Refusal::unavailable(error.to_string())),
        }
    }
}

/// Some change of metadata, as a JSON Patch (RFC 6902).
type Patch = Bytes;
