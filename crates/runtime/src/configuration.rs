//! Asking `tekton` for configuration.

use std::time::Duration;

use bytes::Bytes;
use ids::{AppVersionName, ApplicationName, TenantId};
use ism::config::{CONFIGURATION_REQUEST, CONFIGURATION_RESPONSE};
use ism::subject::instance;
use ism::{ConfigurationRequest, ConfigurationResponse, Record as _};
use serde::de::DeserializeOwned;

use crate::register::Failure;
use crate::{Context, RequestError, now_ms};

const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// What the configuration is of.
pub(crate) enum Of<'a> {
    AppVersion(&'a AppVersionName),
    Application(&'a ApplicationName),
    Tenant(&'a TenantId),
}

/// The register, as one service asks it.
pub(crate) struct Source {
    context: Context,
    subject: String,
}

impl Source {
    pub(crate) fn new(context: &Context) -> Self {
        Self { context: context.clone(), subject: CONFIGURATION_REQUEST.at(instance::TEKTON) }
    }

    /// What the register has, for the asking service; none when there is no such thing.
    pub(crate) async fn ask(&self, of: Of<'_>) -> Result<Option<ConfigurationResponse>, Failure> {
        let (app_version_name, app_name, tenant_id) = match of {
            Of::AppVersion(name) => (Some(name.to_string()), None, None),
            Of::Application(name) => (None, Some(name.to_string()), None),
            Of::Tenant(id) => (None, None, Some(id.to_string())),
        };
        let request = ConfigurationRequest {
            correlation_id: format!("{}-{:x}", self.context.replica(), rand::random::<u64>()),
            timestamp: now_ms(),
            timeout: i64::try_from(ASK_TIMEOUT.as_millis()).unwrap_or(i64::MAX),
            service_instance_name: self.context.instance().to_string(),
            app_version_name,
            app_name,
            tenant_id,
        };
        let answer = self
            .context
            .requester()
            .request(self.subject.clone(), CONFIGURATION_RESPONSE, request.encode(), None, ASK_TIMEOUT)
            .await
            .map_err(|error: RequestError| Failure::Away(error.to_string()))?;
        let response = ConfigurationResponse::decode(&answer.payload)
            .map_err(|error| Failure::Faulty(error.to_string()))?;
        match response.status_code {
            200 => Ok(Some(response)),
            404 => Ok(None),
            code => {
                let reason = response.reason_phrase.unwrap_or_default();
                Err(Failure::Away(format!("it answered {code} {reason}")))
            }
        }
    }
}

/// A service's settings for something; the defaults when none are set.
pub(crate) fn settings<C: DeserializeOwned + Default>(of: &str, json: Option<Bytes>) -> Result<C, Failure> {
    let Some(json) = json else { return Ok(C::default()) };
    let mut deserializer = serde_json::Deserializer::from_slice(&json);
    serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let (path, fault) = (error.path().to_string(), error.inner());
        Failure::Faulty(format!("the settings of {of} for this service are wrong at {path}: {fault}"))
    })
}
