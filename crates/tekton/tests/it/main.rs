//! Tekton on real NATS and PostgreSQL.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod app_configs;
mod applications;
mod bulk;
mod deletions;
mod grants;
mod service_instances;
mod tenant_configs;

use bytes::Bytes;
use ids::InstanceName;
use ism::config::{
    CONFIGURATION_REQUEST, ConfigurationRequest, ConfigurationResponse, SERVICE_INSTANCE_ANNOUNCEMENT,
    ServiceInstanceAnnouncement, ServiceInstanceAnnouncementResponse,
};
use serde_json::{Value, json};
use tekton::Tekton;
use testbed::{Rest, Testbed};

const BROADCASTS: &str = "kaa.v1.events.tekton.service.configuration.*";
const TARGETED: &str = "kaa.v1.service.*.scmp.>";

/// Tekton, to which no service has announced itself.
async fn start_alone(settings: &[(&str, &str)]) -> Testbed {
    let mut all = vec![("tekton.announcement_grace_ms", "0")];
    all.extend(settings);
    Testbed::start(&[runtime::entry::<Tekton>()], &all).await
}

/// Tekton, and services that take any configuration.
async fn start(settings: &[(&str, &str)]) -> Testbed {
    let bed = start_alone(settings).await;
    for instance in ["bcx", "dcx", "epts", "kpc"] {
        announce(&bed, &describe(instance, json!(true))).await;
    }
    bed
}

/// What an instance says of itself that has one schema for all levels.
fn describe(instance: &str, schema: Value) -> Value {
    json!({
        "name": instance, "serviceName": instance, "serviceGroup": "Data collection",
        "description": "For tests", "urlPrefix": format!("/{instance}"),
        "appConfigurationSchema": schema, "appVersionConfigurationSchema": schema,
        "tenantConfigurationSchema": schema,
    })
}

/// Announces an instance, which must be taken.
async fn announce(bed: &Testbed, description: &Value) {
    let (code, reason) = say(bed, &text(&description["name"]), description.to_string()).await;
    assert_eq!((code, reason), (200, None));
}

/// What an announcement is answered.
async fn say(bed: &Testbed, instance: &str, description: String) -> (i32, Option<String>) {
    let announcement = ServiceInstanceAnnouncement {
        correlation_id: "c-1".to_owned(),
        timestamp: runtime::now_ms(),
        timeout: 5_000,
        service_instance_name: instance.to_owned(),
        description: Bytes::from(description),
    };
    let answer: ServiceInstanceAnnouncementResponse =
        bed.ask(SERVICE_INSTANCE_ANNOUNCEMENT.service(&tekton()), &announcement).await;
    assert_eq!(answer.correlation_id, "c-1");
    (answer.status_code, answer.reason_phrase)
}

fn tekton() -> InstanceName {
    InstanceName::parse("tekton").unwrap()
}

/// A question of a service instance; the names are set by the test.
fn question(instance: &str) -> ConfigurationRequest {
    ConfigurationRequest {
        correlation_id: "c-1".to_owned(),
        timestamp: runtime::now_ms(),
        timeout: 5_000,
        service_instance_name: instance.to_owned(),
        app_version_name: None,
        app_name: None,
        tenant_id: None,
    }
}

async fn put_question(bed: &Testbed, request: &ConfigurationRequest) -> ConfigurationResponse {
    bed.ask(CONFIGURATION_REQUEST.service(&tekton()), request).await
}

/// What a service is told for an application.
async fn told(bed: &Testbed, instance: &str, application: &str) -> ConfigurationResponse {
    let request = ConfigurationRequest { app_name: Some(application.to_owned()), ..question(instance) };
    put_question(bed, &request).await
}

fn block(response: &ConfigurationResponse) -> Option<Value> {
    response.config.as_ref().map(|block| serde_json::from_slice(block).unwrap())
}

/// A document of one service instance and application.
fn document(instance: &str, application: &str, block: Value) -> Value {
    json!({instance: {"kaa": {"applications": {application: block}}}})
}

fn config_path(application: &str) -> String {
    format!("/tekton/api/v1/app-configs/applications/{application}")
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

async fn create_application(rest: &Rest) -> String {
    let application = rest.post("/tekton/api/v1/applications", &json!({})).await.expect(201);
    text(&application["name"])
}

async fn create_version(rest: &Rest, application: &str) -> String {
    let path = format!("/tekton/api/v1/applications/{application}/app-versions");
    text(&rest.post(&path, &json!({})).await.expect(201)["name"])
}
