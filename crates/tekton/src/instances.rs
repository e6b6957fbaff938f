//! What service instances say of themselves.

use chrono::{DateTime, Utc};
use ids::{InstanceName, InvalidId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::document::Level;
use crate::schema::{Schema, Unusable};

const TEXT_CHARS_MAX: usize = 4_096;

/// What a service instance says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Description {
    pub(crate) name: String,
    pub(crate) service_name: String,
    pub(crate) service_group: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) url_prefix: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) app_configuration_schema: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) app_version_configuration_schema: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tenant_configuration_schema: Option<Value>,
}

/// Why a description is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidDescription {
    #[error(transparent)]
    Instance(InvalidId),
    #[error("the description must be a JSON object: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the description names {named:?}, but {announced} announces it")]
    Name { named: String, announced: InstanceName },
    #[error("{0} must have at most {TEXT_CHARS_MAX} characters and no control characters but line ends")]
    Text(&'static str),
    #[error("{key} is no usable JSON Schema: {source}")]
    Schema { key: &'static str, source: Unusable },
}

impl Description {
    /// Reads and checks what an instance sent.
    pub(crate) fn read(instance: &InstanceName, json: &[u8]) -> Result<Self, InvalidDescription> {
        let description: Self = serde_json::from_slice(json)?;
        if description.name != instance.as_str() {
            let announced = instance.clone();
            return Err(InvalidDescription::Name { named: description.name, announced });
        }
        let texts = [
            ("serviceName", Some(&description.service_name)),
            ("serviceGroup", Some(&description.service_group)),
            ("description", description.description.as_ref()),
            ("urlPrefix", description.url_prefix.as_ref()),
        ];
        for (key, text) in texts {
            let is_bad = |text: &String| {
                text.chars().count() > TEXT_CHARS_MAX || text.chars().any(|c| c.is_control() && c != '\n')
            };
            if text.is_some_and(is_bad) {
                return Err(InvalidDescription::Text(key));
            }
        }
        let schemas = [
            ("appConfigurationSchema", &description.app_configuration_schema),
            ("appVersionConfigurationSchema", &description.app_version_configuration_schema),
            ("tenantConfigurationSchema", &description.tenant_configuration_schema),
        ];
        for (key, schema) in schemas {
            if let Some(schema) = schema {
                Schema::compile(schema).map_err(|source| InvalidDescription::Schema { key, source })?;
            }
        }
        Ok(description)
    }

    /// The schema of blocks of a level; none: the service takes no such block.
    pub(crate) fn schema(&self, level: &Level) -> Option<&Value> {
        match level {
            Level::Tenant => self.tenant_configuration_schema.as_ref(),
            Level::Application => self.app_configuration_schema.as_ref(),
            Level::Version(_) => self.app_version_configuration_schema.as_ref(),
        }
    }
}

/// A service instance that applications can be configured for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServiceInstance {
    /// The instance's name, by which configuration names it.
    pub(crate) name: String,
    /// The service that it is an instance of.
    pub(crate) service_name: String,
    pub(crate) service_group: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<String>,
    /// Where its REST interface is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) url_prefix: Option<String>,
    /// Whether it takes blocks of applications.
    pub(crate) app_configuration_schema_present: bool,
    /// Whether it takes blocks of application versions.
    pub(crate) app_version_configuration_schema_present: bool,
    /// Whether it takes blocks of tenants.
    pub(crate) tenant_configuration_schema_present: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub(crate) app_configuration_schema: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub(crate) app_version_configuration_schema: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub(crate) tenant_configuration_schema: Option<Value>,
    /// When it last announced itself; an instance that runs does so every minute.
    pub(crate) announced_date: DateTime<Utc>,
}

/// Which schemas to show.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Include {
    pub(crate) app: bool,
    pub(crate) app_version: bool,
    pub(crate) tenant: bool,
}

impl ServiceInstance {
    pub(crate) fn new(described: Description, announced_date: DateTime<Utc>, include: Include) -> Self {
        Self {
            app_configuration_schema_present: described.app_configuration_schema.is_some(),
            app_version_configuration_schema_present: described.app_version_configuration_schema.is_some(),
            tenant_configuration_schema_present: described.tenant_configuration_schema.is_some(),
            name: described.name,
            service_name: described.service_name,
            service_group: described.service_group,
            description: described.description,
            url_prefix: described.url_prefix,
            app_configuration_schema: described.app_configuration_schema.filter(|_| include.app),
            app_version_configuration_schema: described
                .app_version_configuration_schema
                .filter(|_| include.app_version),
            tenant_configuration_schema: described.tenant_configuration_schema.filter(|_| include.tenant),
            announced_date,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(description: Value) -> Result<Description, String> {
        let instance = InstanceName::parse("dcx").unwrap();
        Description::read(&instance, description.to_string().as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_description_is_read_with_its_schemas() {
        let full = json!({
            "name": "dcx", "serviceName": "dcx", "serviceGroup": "Data collection", "later": 1,
            "appConfigurationSchema": {"type": "object"}, "tenantConfigurationSchema": true,
        });
        let described = read(full).unwrap();
        assert_eq!(described.schema(&Level::Application), Some(&json!({"type": "object"})));
        assert_eq!(described.schema(&Level::Tenant), Some(&json!(true)));
        let version = Level::Version(ids::AppVersionName::parse("a-v1").unwrap());
        assert_eq!(described.schema(&version), None);
        let shown = ServiceInstance::new(
            described,
            DateTime::UNIX_EPOCH,
            Include { app: true, ..Include::default() },
        );
        assert!(shown.app_configuration_schema_present && shown.app_configuration_schema.is_some());
        assert!(shown.tenant_configuration_schema_present && shown.tenant_configuration_schema.is_none());
        assert!(!shown.app_version_configuration_schema_present);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let with = |key: &str, value: Value| {
            let mut description = json!({"name": "dcx", "serviceName": "dcx", "serviceGroup": "g"});
            description[key] = value;
            read(description).unwrap_err()
        };
        assert!(with("name", json!("epts")).contains("dcx announces"));
        assert!(with("serviceGroup", json!(1)).contains("JSON object"));
        assert!(with("description", json!("x".repeat(TEXT_CHARS_MAX + 1))).contains("description"));
        assert!(with("serviceName", json!("a\u{0}")).contains("serviceName"));
        let schema = with("appVersionConfigurationSchema", json!({"type": 5}));
        assert!(schema.contains("appVersionConfigurationSchema") && schema.contains("/type"), "{schema}");
        assert!(read(json!([])).unwrap_err().contains("JSON object"));
    }
}
