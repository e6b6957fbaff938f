//! Endpoint tokens on real NATS and PostgreSQL, with the real application and endpoint registers beside.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod ecap;
mod tokens;

use cm::Cm;
use epr::Epr;
use serde_json::{Value, json};
use tekton::Tekton;
use testbed::{Rest, Testbed};

const KEY: &str = "c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00";

async fn start(settings: &[(&str, &str)]) -> Testbed {
    let entries = [runtime::entry::<Tekton>(), runtime::entry::<Epr>(), runtime::entry::<Cm>()];
    let mut all = vec![("cm.token_key", KEY)];
    all.extend(settings);
    Testbed::start(&entries, &all).await
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

/// An application with one version: their names.
async fn application(rest: &Rest) -> (String, String) {
    let application = text(&rest.post("/tekton/api/v1/applications", &json!({})).await.expect(201)["name"]);
    let versions = format!("/tekton/api/v1/applications/{application}/app-versions");
    let version = text(&rest.post(&versions, &json!({})).await.expect(201)["name"]);
    (application, version)
}

/// An endpoint: its id and its token.
async fn endpoint(rest: &Rest, version: &str, token: Option<&str>) -> (String, String) {
    let body = json!({"appVersion": {"name": version}, "endpointToken": token});
    let made = rest.post("/epr/api/v1/endpoints", &body).await.expect(201);
    (text(&made["endpointId"]), text(&made["token"]))
}

fn tokens_of(endpoint_id: &str) -> String {
    format!("/cm/api/v1/endpoints/{endpoint_id}/tokens")
}
