//! Services that announce themselves, and their schemas.

use serde_json::{Value, json};
use testbed::{ACME, Rest};

use crate::{
    announce, config_path, create_application, create_version, describe, document, say, start, start_alone,
    text,
};

const INSTANCES: &str = "/tekton/api/v1/service-instances";

/// A schema of settings with an `interval` of 1 to 60.
fn intervals() -> Value {
    json!({
        "type": "object", "additionalProperties": false,
        "properties": {"interval": {"type": "integer", "minimum": 1, "maximum": 60}},
    })
}

#[tokio::test]
async fn instances_are_listed_with_the_schemas_that_are_asked_for() {
    let bed = start_alone(&[]).await;
    let rest = bed.rest(ACME);
    assert_eq!(rest.get(INSTANCES).await.expect(200), json!([]));
    announce(&bed, &describe("epts", intervals())).await;
    let mut partial = describe("dcx", json!(true));
    partial.as_object_mut().unwrap().remove("tenantConfigurationSchema");
    announce(&bed, &partial).await;

    let listed = rest.get(INSTANCES).await.expect(200);
    let names: Vec<_> = listed.as_array().unwrap().iter().map(|instance| text(&instance["name"])).collect();
    assert_eq!(names, ["dcx", "epts"]);
    let mut epts = rest.get(&format!("{INSTANCES}/epts")).await.expect(200);
    assert!(text(&epts.as_object_mut().unwrap().remove("announcedDate").unwrap()).ends_with('Z'));
    let expected = json!({
        "name": "epts", "serviceName": "epts", "serviceGroup": "Data collection", "description": "For tests",
        "urlPrefix": "/epts", "appConfigurationSchemaPresent": true,
        "appVersionConfigurationSchemaPresent": true, "tenantConfigurationSchemaPresent": true,
    });
    assert_eq!(epts, expected);
    assert_eq!(listed[0]["tenantConfigurationSchemaPresent"], false);
    let query = "include=appConfigurationSchema,tenantConfigurationSchema";
    let full = rest.get(&format!("{INSTANCES}/epts?{query}")).await.expect(200);
    assert_eq!(
        (&full["appConfigurationSchema"], &full["tenantConfigurationSchema"]),
        (&intervals(), &intervals())
    );
    assert_eq!(full.get("appVersionConfigurationSchema"), None);

    // What is said later holds.
    announce(&bed, &describe("epts", json!(false))).await;
    let query = "include=appVersionConfigurationSchema";
    let again = rest.get(&format!("{INSTANCES}?{query}")).await.expect(200);
    assert_eq!(again[1]["appVersionConfigurationSchema"], false);
    assert!(rest.get(&format!("{INSTANCES}/none")).await.refused(404).contains("none"));
    assert!(rest.get(&format!("{INSTANCES}?include=all")).await.refused(400).contains("include"));
    bed.stop().await;
}

#[tokio::test]
async fn bad_announcements_are_refused_with_the_reason() {
    let settings = [("tekton.description_bytes_max", "2000"), ("tekton.service_instances_max", "1")];
    let bed = start_alone(&settings).await;
    let bad = describe("dcx", json!({"type": "objekt"})).to_string();
    let long = describe("dcx", json!({"description": "x".repeat(2_000)})).to_string();
    for (instance, description, word) in [
        ("dcx", bad, "appConfigurationSchema"),
        ("dcx", long, "tekton.description_bytes_max"),
        ("dcx", "nonsense".to_owned(), "JSON"),
        ("epts", describe("dcx", json!(true)).to_string(), "epts announces"),
        ("e.p", describe("e.p", json!(true)).to_string(), "service instance name"),
        ("dcx", describe("dcx", json!({"$ref": "https://example.com/s.json"})).to_string(), "same schema"),
    ] {
        let (code, reason) = say(&bed, instance, description).await;
        let reason = reason.unwrap();
        assert!(code == 400 && reason.contains(word), "{code} {reason}");
    }
    announce(&bed, &describe("dcx", json!(true))).await;
    let (code, reason) = say(&bed, "epts", describe("epts", json!(true)).to_string()).await;
    assert!(code == 429 && reason.unwrap().contains("tekton.service_instances_max"));
    announce(&bed, &describe("dcx", json!(false))).await;
    bed.stop().await;
}

async fn refusal(rest: &Rest, path: &str, body: &Value) -> String {
    rest.put(path, body).await.refused(400)
}

#[tokio::test]
async fn configuration_must_satisfy_the_schema_of_its_service() {
    let bed = start_alone(&[]).await;
    let rest = bed.rest(ACME);
    let app = create_application(&rest).await;
    let version = create_version(&rest, &app).await;
    let path = config_path(&app);
    let good = document("epts", &app, json!({"interval": 60, "versions": {&version: {"interval": 1}}}));
    assert!(refusal(&rest, &path, &good).await.contains("no service has announced itself yet"));
    let mut described = describe("epts", intervals());
    described.as_object_mut().unwrap().remove("tenantConfigurationSchema");
    announce(&bed, &described).await;
    assert_eq!(rest.put(&path, &good).await.expect(200), good);

    let bad = document(
        "epts",
        &app,
        json!({"interval": 61, "versions": {&version: {"interval": "hunter2", "x": 1}}}),
    );
    let message = refusal(&rest, &path, &bad).await;
    for part in [
        format!("epts for application {app} at /interval: "),
        format!("epts for application version {version} at /interval: "),
        format!("epts for application version {version} at the whole: "),
        "'x'".to_owned(),
        "60".to_owned(),
    ] {
        assert!(message.contains(&part), "{part} is not in: {message}");
    }
    assert!(!message.contains("hunter2"), "{message}");
    let many: Value = (0..20).map(|number| (format!("k{number}"), json!(1))).collect();
    let many = json!({"interval": many});
    assert!(refusal(&rest, &path, &document("epts", &app, many)).await.len() < 4_000);
    assert_eq!(rest.get(&path).await.expect(200), good);

    let patch = json!({"kaa": {"applications": {&app: {"interval": 0}}}});
    let patched = rest.patch(&format!("{path}?serviceInstanceName=epts"), &patch).await;
    assert!(patched.refused(400).contains("/interval"));
    let of_version = format!("{path}/app-versions/{version}");
    let body = document("epts", &app, json!({"versions": {&version: {"interval": 0}}}));
    assert!(refusal(&rest, &of_version, &body).await.contains("/interval"));
    let tenant = json!({"epts": {"kaa": {"tenants": {"acme": {"config": {"interval": 1}}}}}});
    let message = refusal(&rest, "/tekton/api/v1/tenant-configs", &tenant).await;
    assert!(message.contains("takes no configuration of a tenant"), "{message}");
    bed.stop().await;
}

#[tokio::test]
async fn what_was_taken_before_a_schema_changed_serves_on() {
    let bed = start(&[]).await;
    let rest = bed.rest(ACME);
    let app = create_application(&rest).await;
    let path = config_path(&app);
    let mut body = document("epts", &app, json!({"old": 1}));
    rest.put(&path, &body).await.expect(200);
    announce(&bed, &describe("epts", intervals())).await;
    assert_eq!(crate::block(&crate::told(&bed, "epts", &app).await), Some(json!({"old": 1})));
    // Whoever changes something else is not held up by it.
    body["dcx"] = document("dcx", &app, json!({"new": 1}))["dcx"].clone();
    assert_eq!(rest.put(&path, &body).await.expect(200), body);
    let changed = document("epts", &app, json!({"old": 2}));
    assert!(refusal(&rest, &path, &changed).await.contains("'old'"));
    rest.put(&path, &json!({})).await.expect(200);
    assert!(refusal(&rest, &path, &document("epts", &app, json!({"old": 1}))).await.contains("'old'"));
    bed.stop().await;
}

#[tokio::test]
async fn services_that_start_together_are_waited_for() {
    let bed = start_alone(&[("tekton.announcement_grace_ms", "20000")]).await;
    let rest = bed.rest(ACME);
    let app = create_application(&rest).await;
    let (path, body) = (config_path(&app), document("epts", &app, json!({})));
    let description = describe("epts", json!(true));
    let (answer, ()) = tokio::join!(rest.put(&path, &body), announce(&bed, &description));
    assert_eq!(answer.expect(200), body);
    bed.stop().await;
}
