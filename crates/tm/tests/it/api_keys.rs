//! API keys.

use chrono::Utc;
use serde_json::json;

use crate::bed::{Answer, Bed, text};

const KEYS: &str = "/tm/api/v1/api-keys";

#[tokio::test]
async fn a_key_is_shown_once_and_does_what_its_role_allows() {
    let bed = Bed::start().await;
    let admin = bed.tenant("acme").await;
    let made = admin.post(KEYS, &json!({"name": "reader", "role": "viewer"})).await;
    let path = made.location.clone().unwrap();
    let made = made.expect(201);
    let (key, id) = (text(&made["key"]), text(&made["id"]));
    assert!(key.starts_with(&format!("bdr_{id}_")), "{key}");
    assert_eq!(path, format!("{KEYS}/{id}"));
    let reader = bed.with(&key);
    assert_eq!(reader.get("/tm/api/v1/me").await.expect(200)["name"], "reader");
    reader.get("/api/v2/tenants/acme").await.expect(200);
    reader.get("/api/v2/users").await.refused(403);
    reader.get(KEYS).await.refused(403);

    let shown = admin.get(&path).await.expect(200);
    assert!(shown["key"].is_null() && !shown.to_string().contains(&key));
    assert!(shown["lastUsedAt"].is_string(), "{shown}");
    let list = admin.get(KEYS).await.expect(200);
    assert_eq!((&list["totalElements"], &list["content"][0]["id"]), (&json!(1), &json!(id)));
    assert!(!list.to_string().contains(&key));
}

#[tokio::test]
async fn a_revoked_key_is_refused_at_once() {
    let bed = Bed::start().await;
    let admin = bed.tenant("acme").await;
    let made = admin.post(KEYS, &json!({"name": "k", "role": "operator"})).await.expect(201);
    let (key, path) = (text(&made["key"]), format!("{KEYS}/{}", text(&made["id"])));
    let client =
        [("grant_type", "client_credentials"), ("client_id", &text(&made["id"])), ("client_secret", &key)];
    let token = bed.nobody().form("acme", "token", &client).await.expect(200);
    assert_eq!((&token["refresh_expires_in"], &token["refresh_token"]), (&json!(0), &json!(null)));
    let (by_key, by_token) = (bed.with(&key), bed.with(&text(&token["access_token"])));
    for caller in [&by_key, &by_token] {
        assert_eq!(caller.get("/tm/api/v1/me").await.expect(200)["role"], "operator");
    }
    bed.nobody().form("bandar", "token", &client).await.expect(401);

    admin.delete(&path).await.expect(204);
    admin.delete(&path).await.expect(204);
    for caller in [&by_key, &by_token] {
        caller.finds("/tm/api/v1/me", 401).await;
    }
    bed.nobody().form("acme", "token", &client).await.expect(401);
    assert!(admin.get(&path).await.expect(200)["revokedAt"].is_string());
}

#[tokio::test]
async fn a_key_ends_when_it_expires() {
    let bed = Bed::start().await;
    let admin = bed.tenant("acme").await;
    let end = |ms: i64| (Utc::now() + chrono::Duration::milliseconds(ms)).to_rfc3339();
    let past = json!({"name": "k", "role": "viewer", "expiresAt": end(-1)});
    assert!(admin.post(KEYS, &past).await.refused(400).contains("expiresAt"));
    let soon = json!({"name": "k", "role": "viewer", "expiresAt": end(3_000)});
    let made = admin.post(KEYS, &soon).await.expect(201);
    let key = bed.with(&text(&made["key"]));
    let client = [
        ("grant_type", "client_credentials"),
        ("client_id", &text(&made["id"])),
        ("client_secret", key.credential()),
    ];
    let token = bed.nobody().form("acme", "token", &client).await;
    if token.status == 200 {
        assert!(token.body["expires_in"].as_i64().unwrap() <= 3, "{}", token.body);
    }
    key.finds("/tm/api/v1/me", 401).await;
    bed.nobody().form("acme", "token", &client).await.expect(401);
}

#[tokio::test]
async fn keys_may_be_bound_to_applications() {
    let bed = Bed::start().await;
    let admin = bed.tenant("acme").await;
    let grants = json!({"app1": "operator", "app2": "viewer"});
    let made = admin.post(KEYS, &json!({"name": "k", "grants": grants})).await.expect(201);
    let me = bed.with(&text(&made["key"])).get("/tm/api/v1/me").await.expect(200);
    assert_eq!((&me["grants"], &me["role"]), (&grants, &json!(null)));
    bed.with(&text(&made["key"])).get("/api/v2/tenants/acme").await.refused(403);

    let refuse = async |body| admin.post(KEYS, &body).await.refused(400);
    assert!(refuse(json!({"name": "k"})).await.contains("role or grants"));
    assert!(refuse(json!({"name": "", "role": "viewer"})).await.contains("name"));
    refuse(json!({"name": "k", "role": "emperor"})).await;
    refuse(json!({"name": "k", "grants": {"No App": "viewer"}})).await;
    let many: serde_json::Map<_, _> = (0..33).map(|app| (format!("app{app}"), json!("viewer"))).collect();
    assert!(refuse(json!({"name": "k", "grants": many})).await.contains("32"));
}

#[tokio::test]
async fn keys_belong_to_their_tenant_and_are_bounded() {
    let bed = Bed::start_with(&[("tm.api_keys_max", "1")]).await;
    let (acme, other) = (bed.tenant("acme").await, bed.tenant("other").await);
    let make = async || acme.post(KEYS, &json!({"name": "k", "role": "viewer"})).await;
    let path = format!("{KEYS}/{}", text(&make().await.expect(201)["id"]));
    assert!(make().await.refused(429).contains("tm.api_keys_max"));
    other.get(&path).await.refused(404);
    other.delete(&path).await.refused(404);
    assert_eq!(other.get(KEYS).await.expect(200)["totalElements"], 0);
    other.get(&format!("{path}?tenantId=acme")).await.refused(403);
    bed.platform().get(&format!("{path}?tenantId=acme")).await.expect(200);
    acme.delete(&path).await.expect(204);
    make().await.expect(201);
}

#[tokio::test]
async fn an_unknown_key_is_refused() {
    let bed = Bed::start().await;
    let refused = |answer: Answer| answer.refused(401);
    for key in ["x", "bdr_abc_def", "key-of-the-platform-", "a.b.c"] {
        refused(bed.with(key).get("/tm/api/v1/me").await);
    }
    refused(bed.nobody().get("/tm/api/v1/me").await);
}
