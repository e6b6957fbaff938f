//! Callers with roles in single applications.

use std::collections::BTreeMap;

use ism::auth::AUTHENTICATE_REQUEST;
use ism::{AuthenticationRequest, AuthenticationResponse};
use serde_json::json;
use testbed::{Responder, Tenant};

use crate::{start, tokens_of};

#[tokio::test]
async fn they_reach_tokens_of_their_applications_only() {
    let site = start(&[("http.auth.tenant_manager", "true")]).await;
    let manager = |request: AuthenticationRequest| {
        let role = if request.credential.as_str().starts_with("viewer") { "viewer" } else { "operator" };
        Some(AuthenticationResponse {
            correlation_id: request.correlation_id,
            timestamp: runtime::now_ms(),
            tenant_id: Some("acme".to_owned()),
            subject: Some("user".to_owned()),
            name: Some("user".to_owned()),
            grants: BTreeMap::from([("mine".to_owned(), role.to_owned())]),
            status_code: 200,
            ..AuthenticationResponse::default()
        })
    };
    let _manager = Responder::start(&site.client, AUTHENTICATE_REQUEST.at("tm"), manager).await;
    let operator = site.rest(Tenant { id: "acme", api_key: "operator-key-of-somebody" });
    let viewer = site.rest(Tenant { id: "acme", api_key: "viewer-key-of-somebody" });
    let (mine, _) = site.endpoint("e-1", "mine", None).await;
    let (theirs, _) = site.endpoint("e-2", "theirs", None).await;
    site.register("e-3", "theirs");

    viewer.get(&tokens_of("e-1")).await.expect(200);
    for id in ["e-2", "e-3"] {
        viewer.get(&tokens_of(id)).await.refused(403);
        operator.post(&tokens_of(id), &json!({"applicationName": "theirs"})).await.refused(403);
        operator.post(&tokens_of(id), &json!({"applicationName": "mine"})).await.refused(404);
    }
    let one = format!("{}/{theirs}", tokens_of("e-2"));
    operator.get(&one).await.refused(403);
    operator.delete(&one).await.refused(403);
    operator.put(&format!("{one}/status"), &json!({"status": "Revoked"})).await.refused(403);

    let own = format!("{}/{mine}", tokens_of("e-1"));
    viewer.get(&own).await.expect(200);
    viewer.delete(&own).await.refused(403);
    viewer.put(&format!("{own}/status"), &json!({"status": "Suspended"})).await.refused(403);
    operator.put(&format!("{own}/status"), &json!({"status": "Suspended"})).await.expect(200);
    operator.post(&tokens_of("e-1"), &json!({"applicationName": "mine"})).await.expect(201);
    assert_eq!(operator.delete(&own).await.status, 204);
    site.stop().await;
}
