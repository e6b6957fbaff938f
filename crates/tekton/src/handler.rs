//! Answers what other services ask about applications and versions (`ConfigurationRequest`).

use ids::{AppVersionName, ApplicationName, InstanceName, InvalidId};
use ism::config::{ConfigurationRequest, ConfigurationResponse};

use crate::error::Error;
use crate::store::{Configuration, Store};

/// Why there is nothing to tell.
enum Refusal {
    Bad(String),
    Unknown(String),
    Failed(Error),
}

impl From<InvalidId> for Refusal {
    fn from(invalid: InvalidId) -> Self {
        Self::Bad(invalid.to_string())
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Answers one request: 200 with tenant, application, version names and the asking instance's block, 400, 404
/// or 503.
pub(crate) async fn answer(store: &Store, request: ConfigurationRequest) -> ConfigurationResponse {
    let found = find(store, &request).await;
    let response = ConfigurationResponse {
        correlation_id: request.correlation_id,
        timestamp: runtime::now_ms(),
        ..ConfigurationResponse::default()
    };
    let refused = |status_code, reason| ConfigurationResponse {
        status_code,
        reason_phrase: Some(reason),
        ..response.clone()
    };
    match found {
        Ok(mut found) => ConfigurationResponse {
            tenant_id: Some(std::mem::take(&mut found.tenant_id)),
            app_name: Some(std::mem::take(&mut found.application_name)),
            app_version_names: found.app_version_names.take().unwrap_or_default(),
            config: found.into_block(),
            status_code: 200,
            ..response
        },
        Err(Refusal::Bad(reason)) => refused(400, reason),
        Err(Refusal::Unknown(reason)) => refused(404, reason),
        Err(Refusal::Failed(error)) => {
            tracing::error!(error = &error as &dyn std::error::Error, "a configuration request failed");
            refused(503, "the application register cannot read its database now".to_owned())
        }
    }
}

async fn find(store: &Store, request: &ConfigurationRequest) -> Result<Configuration, Refusal> {
    let instance = InstanceName::parse(&request.service_instance_name)?;
    if let Some(name) = &request.app_version_name {
        let version = AppVersionName::parse(name)?;
        let found = store.version_configuration(&version, &instance).await?;
        return found
            .ok_or_else(|| Refusal::Unknown(format!("application version {version} does not exist")));
    }
    if let Some(name) = &request.app_name {
        let application = ApplicationName::parse(name)?;
        let found = store.application_configuration(&application, &instance).await?;
        return found.ok_or_else(|| Refusal::Unknown(format!("application {application} does not exist")));
    }
    Err(Refusal::Bad("name an application version or an application".to_owned()))
}
