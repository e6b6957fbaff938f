//! Tekton on real NATS and PostgreSQL.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod app_configs;
mod applications;

use serde_json::{Value, json};
use tekton::Tekton;
use testbed::{Rest, Testbed};

async fn start(settings: &[(&str, &str)]) -> Testbed {
    Testbed::start(&[runtime::entry::<Tekton>()], settings).await
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
