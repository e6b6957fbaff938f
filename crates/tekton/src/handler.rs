//! Answers other services: what is configured (`ConfigurationRequest`), and that they are known
//! (`ServiceInstanceAnnouncement`).

use ids::{AppVersionName, ApplicationName, InstanceName, InvalidId, TenantId};
use ism::config::{
    ConfigurationRequest, ConfigurationResponse, ServiceInstanceAnnouncement,
    ServiceInstanceAnnouncementResponse,
};

use crate::error::Error;
use crate::instances::InvalidDescription;
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
            app_name: found.application_name.take(),
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
    match (&request.app_version_name, &request.app_name, &request.tenant_id) {
        (Some(name), None, None) => {
            let version = AppVersionName::parse(name)?;
            let found = store.version_configuration(&version, &instance).await?;
            found.ok_or_else(|| Refusal::Unknown(format!("application version {version} does not exist")))
        }
        (None, Some(name), None) => {
            let application = ApplicationName::parse(name)?;
            let found = store.application_configuration(&application, &instance).await?;
            found.ok_or_else(|| Refusal::Unknown(format!("application {application} does not exist")))
        }
        (None, None, Some(id)) => Ok(store.tenant_configuration(&TenantId::parse(id)?, &instance).await?),
        _ => Err(Refusal::Bad("name one of: an application version, an application, a tenant".to_owned())),
    }
}

/// Answers that a service instance is known from now on: 200; 400 with what is wrong with what it says, 429
/// when there are too many, 503.
pub(crate) async fn hear(
    store: &Store,
    announcement: ServiceInstanceAnnouncement,
) -> ServiceInstanceAnnouncementResponse {
    let heard = async {
        let instance =
            InstanceName::parse(&announcement.service_instance_name).map_err(InvalidDescription::Instance)?;
        store.announce(&instance, &announcement.description).await
    };
    let (status_code, reason_phrase) = match heard.await {
        Ok(()) => (200, None),
        Err(error @ (Error::Description(_) | Error::DescriptionTooLarge { .. })) => {
            (400, Some(error.to_string()))
        }
        Err(error @ Error::TooManyInstances(_)) => (429, Some(error.to_string())),
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "an announcement could not be kept");
            (503, Some("the application register cannot use its database now".to_owned()))
        }
    };
    if let Some(reason) = reason_phrase.as_ref().filter(|_| status_code != 503) {
        tracing::warn!(instance = announcement.service_instance_name, reason, "an announcement was refused");
    }
    ServiceInstanceAnnouncementResponse {
        correlation_id: announcement.correlation_id,
        timestamp: runtime::now_ms(),
        timeout: 0,
        status_code,
        reason_phrase,
    }
}
