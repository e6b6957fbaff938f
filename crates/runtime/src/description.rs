//! What a service says of itself to the application register, and saying it.

use std::time::Duration;

use bytes::Bytes;
use ism::config::{SERVICE_INSTANCE_ANNOUNCEMENT, SERVICE_INSTANCE_ANNOUNCEMENT_RESPONSE};
use ism::subject::instance;
use ism::{Record as _, ServiceInstanceAnnouncement, ServiceInstanceAnnouncementResponse};
use serde_json::{Map, Value, json};

use crate::{Context, now_ms};

/// How often a service that is known says again that it is there.
const REPEAT: Duration = Duration::from_secs(60);
/// How soon it says it again while nobody has listened.
const RETRY: Duration = Duration::from_secs(1);
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// A service that applications are configured for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Description {
    /// The group that a console shows it in, for example `Data collection`.
    pub group: &'static str,
    /// What it does, in a few words.
    pub text: &'static str,
    /// The JSON Schema of its settings for an application.
    pub app_schema: Option<&'static str>,
    /// The JSON Schema of its settings for an application version.
    pub app_version_schema: Option<&'static str>,
    /// The JSON Schema of its settings for a tenant.
    pub tenant_schema: Option<&'static str>,
}

impl Description {
    /// The description as the application register takes it.
    fn of(&self, service: &str, instance: &str) -> anyhow::Result<Bytes> {
        let mut object = Map::new();
        let mut set = |key: &str, value: Value| object.insert(key.to_owned(), value);
        set("name", json!(instance));
        set("serviceName", json!(service));
        set("serviceGroup", json!(self.group));
        set("description", json!(self.text));
        set("urlPrefix", json!(format!("/{instance}")));
        let schemas = [
            ("appConfigurationSchema", self.app_schema),
            ("appVersionConfigurationSchema", self.app_version_schema),
            ("tenantConfigurationSchema", self.tenant_schema),
        ];
        for (key, schema) in schemas {
            if let Some(schema) = schema {
                set(key, serde_json::from_str(schema)?);
            }
        }
        Ok(Bytes::from(serde_json::to_vec(&object)?))
    }
}

/// Says what the service is until the register has heard it, and now and then again.
pub(crate) async fn announce(context: Context, description: Description) -> anyhow::Result<()> {
    let described = description.of(context.name(), context.instance().as_str())?;
    let stopping = context.stopping();
    loop {
        let pause = match say(&context, described.clone()).await {
            Ok(()) => REPEAT,
            Err(error) => {
                tracing::debug!(service = context.name(), %error, "the application register did not hear");
                RETRY
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stopping.cancelled() => return Ok(()),
        }
    }
}

async fn say(context: &Context, description: Bytes) -> anyhow::Result<()> {
    let announcement = ServiceInstanceAnnouncement {
        correlation_id: format!("{}-{:x}", context.replica(), rand::random::<u64>()),
        timestamp: now_ms(),
        timeout: i64::try_from(ASK_TIMEOUT.as_millis()).unwrap_or(i64::MAX),
        service_instance_name: context.instance().to_string(),
        description,
    };
    let subject = SERVICE_INSTANCE_ANNOUNCEMENT.at(instance::TEKTON);
    let (answer, payload) = (SERVICE_INSTANCE_ANNOUNCEMENT_RESPONSE, announcement.encode());
    let answer = context.requester().request(subject, answer, payload, None, ASK_TIMEOUT).await?;
    let response = ServiceInstanceAnnouncementResponse::decode(&answer.payload)?;
    match response.status_code {
        200 => Ok(()),
        // It will say the same the next time too: the schemas of this service are wrong.
        code @ 400..500 => {
            let reason = response.reason_phrase.unwrap_or_default();
            tracing::error!(service = context.name(), code, reason, "the application register refused");
            Ok(())
        }
        code => anyhow::bail!("it answered {code} {}", response.reason_phrase.unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_holds_its_schemas_as_json() {
        let description = Description {
            group: "Data collection",
            text: "Takes data samples",
            app_schema: Some(r#"{"type": "object"}"#),
            app_version_schema: None,
            tenant_schema: None,
        };
        let described: Value = serde_json::from_slice(&description.of("dcx", "dcx").unwrap()).unwrap();
        let expected = json!({
            "name": "dcx", "serviceName": "dcx", "serviceGroup": "Data collection",
            "description": "Takes data samples", "urlPrefix": "/dcx",
            "appConfigurationSchema": {"type": "object"},
        });
        assert_eq!(described, expected);
    }
}
