//! Callers with roles in single applications.

use std::collections::BTreeMap;

use ism::auth::AUTHENTICATE_REQUEST;
use ism::{AuthenticationRequest, AuthenticationResponse};
use serde_json::json;
use testbed::{ACME, Responder, Rest, Tenant, Testbed};

use crate::{config_path, create_application, create_version, document, start};

const APPLICATIONS: &str = "/tekton/api/v1/applications";

/// The tenant manager of the test: whoever shows the key `granted` is operator of one application.
async fn granted(bed: &Testbed, application: &str) -> (Responder, Rest) {
    let grants = BTreeMap::from([(application.to_owned(), "operator".to_owned())]);
    let answer = move |request: AuthenticationRequest| {
        Some(AuthenticationResponse {
            correlation_id: request.correlation_id,
            timestamp: runtime::now_ms(),
            tenant_id: Some("acme".to_owned()),
            subject: Some("user".to_owned()),
            name: Some("user".to_owned()),
            grants: grants.clone(),
            status_code: 200,
            ..AuthenticationResponse::default()
        })
    };
    let responder = Responder::start(&bed.client, AUTHENTICATE_REQUEST.at("tm"), answer).await;
    (responder, bed.rest(Tenant { id: "acme", api_key: "granted-key-of-somebody" }))
}

#[tokio::test]
async fn they_see_and_change_their_applications_only() {
    let bed = start(&[("http.auth.tenant_manager", "true")]).await;
    let all = bed.rest(ACME);
    let (mine, theirs) = (create_application(&all).await, create_application(&all).await);
    let (_manager, rest) = granted(&bed, &mine).await;
    create_version(&rest, &mine).await;
    let listed = rest.get(APPLICATIONS).await.expect(200);
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert_eq!(listed[0]["name"], json!(mine));
    rest.post(APPLICATIONS, &json!({})).await.refused(403);
    let own = document("dcx", &mine, json!({"a": 1}));
    rest.put(&config_path(&mine), &own).await.expect(200);
    all.put(&config_path(&theirs), &document("dcx", &theirs, json!({"b": 2}))).await.expect(200);

    for path in [format!("{APPLICATIONS}/{theirs}"), config_path(&theirs)] {
        rest.get(&path).await.refused(403);
        rest.patch(&path, &json!({})).await.refused(403);
    }
    rest.delete(&format!("{APPLICATIONS}/{theirs}")).await.refused(403);
    rest.put(&config_path(&theirs), &json!({})).await.refused(403);
    rest.get("/tekton/api/v1/tenant-configs").await.refused(403);
    rest.put("/tekton/api/v1/tenant-configs", &json!({})).await.refused(403);

    assert_eq!(rest.get("/tekton/api/v1/app-configs").await.expect(200), own);
    rest.get(&format!("/tekton/api/v1/app-configs?appName={theirs}")).await.refused(403);
    assert_eq!(rest.post("/tekton/api/v1/app-configs", &own).await.expect(200), own);
    let both = json!({"dcx": {"kaa": {"applications": {&mine: {"a": 2}, &theirs: {}}}}});
    rest.post("/tekton/api/v1/app-configs", &both).await.refused(403);
    assert_eq!(rest.get(&config_path(&mine)).await.expect(200), own);

    let tenant = json!({"kpc": {"kaa": {"tenants": {"acme": {"config": {}}}}}});
    all.put("/tekton/api/v1/tenant-configs", &tenant).await.expect(200);
    let bulk = rest.get("/tekton/api/v1/bulk?include=tenantConfigs").await.expect(200);
    assert_eq!(bulk["tenants"][0]["applications"], rest.get(APPLICATIONS).await.expect(200));
    assert_eq!(bulk["tenants"][0].get("tenantConfigs"), None);
    rest.get("/tekton/api/v1/service-instances").await.expect(200);
    assert_eq!(rest.delete(&format!("{APPLICATIONS}/{mine}?cascade=true")).await.status, 204);
    bed.stop().await;
}
