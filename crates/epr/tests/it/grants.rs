//! Callers who have a role in some applications only; the test plays `tm`.

use std::collections::BTreeMap;

use ism::auth::{AUTHENTICATE_REQUEST, AuthenticationRequest, AuthenticationResponse};
use serde_json::json;
use testbed::{ACME, Responder, Tenant, Testbed};

use crate::{Cm, ENDPOINTS, PlayedCm, execute, ids, register, start};

/// Operates the application `app`, and sees `more`.
const GRANTED: Tenant = Tenant { id: "acme", api_key: "key-of-somebody-with-grants" };

async fn play_tm(bed: &Testbed) -> Responder {
    let subject = AUTHENTICATE_REQUEST.service(&::ids::InstanceName::parse("tm").unwrap());
    Responder::start(&bed.client, subject, |request: AuthenticationRequest| {
        let known = request.credential.as_str() == GRANTED.api_key;
        let grants = [("app", "operator"), ("more", "viewer")];
        let grants: BTreeMap<String, String> =
            grants.iter().map(|(name, role)| ((*name).to_owned(), (*role).to_owned())).collect();
        Some(AuthenticationResponse {
            correlation_id: request.correlation_id,
            tenant_id: known.then(|| "acme".to_owned()),
            subject: known.then(|| "somebody".to_owned()),
            name: known.then(|| "somebody".to_owned()),
            grants: if known { grants } else { BTreeMap::new() },
            status_code: if known { 200 } else { 401 },
            ..AuthenticationResponse::default()
        })
    })
    .await
}

#[tokio::test]
async fn a_grant_reaches_its_application_and_no_further() {
    let (bed, _tekton) = start(&[("http.auth.tenant_manager", "true")]).await;
    let _cm = PlayedCm::start(&bed, Cm::Makes).await;
    let _tm = play_tm(&bed).await;
    register(&bed, "app-v1", "a", json!({"x": 1})).await;
    register(&bed, "more-v1", "m", json!({"x": 1})).await;
    register(&bed, "app-v1", "t", json!({})).await;
    let relations = ["m", "t"].map(|to| json!({"type": "contains", "from": "a", "to": to}));
    bed.rest(ACME).put("/epr/api/v1/relations/link", &json!(relations)).await.expect(204);
    execute(&bed, "UPDATE epr.endpoints SET application_name = 'third' WHERE endpoint_id = 't'").await;
    let rest = bed.rest(GRANTED);
    assert_eq!(rest.get(&format!("{ENDPOINTS}/a/relations")).await.expect(200), json!([relations[0]]));
    assert_eq!(ids(&rest.get(ENDPOINTS).await.expect(200)), ["a", "m"]);
    assert_eq!(ids(&rest.get(&format!("{ENDPOINTS}?applicationName=app")).await.expect(200)), ["a"]);
    rest.get(&format!("{ENDPOINTS}?applicationName=third")).await.refused(403);
    rest.post(&format!("{ENDPOINTS}/search"), &json!({"applicationName": "third"})).await.refused(403);
    for at in ["", "/metadata", "/metadata/x", "/metadata-keys", "/app-version", "/relations"] {
        rest.get(&format!("{ENDPOINTS}/m{at}")).await.expect(200);
    }
    rest.get("/epr/api/v1/applications/more/metadata-keys").await.expect(200);
    rest.get("/epr/api/v1/applications/third/metadata-keys").await.refused(403);
    for (at, body) in
        [("metadata", json!({})), ("metadata/x", json!(1)), ("app-version", json!({"name": "more-v1"}))]
    {
        rest.put(&format!("{ENDPOINTS}/m/{at}"), &body).await.refused(403);
    }
    rest.patch(&format!("{ENDPOINTS}/m/metadata"), &json!([])).await.refused(403);
    rest.delete(&format!("{ENDPOINTS}/m/metadata/x")).await.refused(403);
    rest.delete(&format!("{ENDPOINTS}/m")).await.refused(403);
    let within = json!([{"type": "contains", "from": "a", "to": "m"}]);
    rest.put("/epr/api/v1/relations/link", &within).await.refused(403);
    let body = json!({"appVersion": {"name": "more-v1"}});
    rest.post(ENDPOINTS, &body).await.refused(403);
    let body = json!({"appVersion": {"name": "app-v1"}, "relations": [{"type": "contains", "to": "m"}]});
    rest.post(ENDPOINTS, &body).await.refused(403);
    let body = json!({"appVersion": {"name": "more-v1"}, "endpoints": [{}]});
    rest.post(&format!("{ENDPOINTS}/batch"), &body).await.refused(403);
    rest.post(ENDPOINTS, &json!({"appVersion": {"name": "app-v1"}, "endpointId": "n"})).await.expect(201);
    rest.put(&format!("{ENDPOINTS}/a/metadata/x"), &json!(2)).await.expect(204);
    let deleted =
        rest.post(&format!("{ENDPOINTS}/delete"), &json!({"endpointIds": ["a", "m"]})).await.expect(200);
    assert_eq!((&deleted["deletedCount"], &deleted["failed"][0]["statusCode"]), (&json!(1), &json!(403)));
    rest.delete(&format!("{ENDPOINTS}/a")).await.expect(204);
    rest.delete(&format!("{ENDPOINTS}/n")).await.expect(204);
    assert_eq!(ids(&bed.rest(ACME).get(ENDPOINTS).await.expect(200)), ["m", "t"]);
    bed.rest(Tenant { id: "acme", api_key: "nobody-has-this-key" }).get(ENDPOINTS).await.refused(401);
    bed.stop().await;
}
