//! Users.

use serde_json::{Value, json};

use crate::bed::{Bed, text};

const USERS: &str = "/api/v2/users";

fn bob() -> Value {
    json!({"username": "Bob@Example.com", "password": "password-of-bob", "role": "operator", "grants": {"app1": "admin"}})
}

#[tokio::test]
async fn users_are_made_found_changed_and_deleted() {
    let bed = Bed::start().await;
    let admin = bed.tenant("acme").await;
    let made = admin.post(USERS, &bob()).await;
    let path = made.location.clone().unwrap();
    let made = made.expect(201);
    assert_eq!(path, format!("{USERS}/{}", text(&made["id"])));
    assert_eq!((&made["name"], &made["role"]), (&json!("Bob@Example.com"), &json!("operator")));
    assert_eq!((&made["grants"], &made["enabled"]), (&json!({"app1": "admin"}), &json!(true)));
    assert_eq!(admin.get(&path).await.expect(200), made);
    let found =
        async |query: &str| admin.get(&format!("{USERS}?{query}")).await.expect(200)["totalElements"].clone();
    assert_eq!((found("").await, found("search=BOB").await), (json!(2), json!(1)));
    assert!(admin.get(&format!("{USERS}?search=%00")).await.refused(400).contains("NUL"));
    assert_eq!((found("search=%25").await, found("enabled=false").await), (json!(0), json!(0)));

    let changed = admin.put(&path, &json!({"name": "Bob", "role": null})).await.expect(200);
    assert_eq!((&changed["name"], &changed["role"]), (&json!("Bob"), &json!(null)));
    assert_eq!(changed["grants"], json!({"app1": "admin"}), "what is absent stays");
    let changed = admin.put(&path, &json!({"grants": {}})).await.expect(200);
    assert_eq!(changed["grants"], json!({}));

    admin.delete(&path).await.expect(204);
    admin.delete(&path).await.refused(404);
    admin.get(&path).await.refused(404);
}

#[tokio::test]
async fn wrong_users_are_refused_with_the_cause() {
    let bed = Bed::start_with(&[("tm.users_max", "2")]).await;
    let admin = bed.tenant("acme").await;
    let with = |key: &str, value: Value| {
        let mut body = bob();
        body[key] = value;
        body
    };
    let refuse = async |body: Value| admin.post(USERS, &body).await.refused(400);
    assert!(refuse(with("username", json!("a b"))).await.contains("username"));
    assert!(refuse(with("password", json!("short"))).await.contains("tm.password_chars_min"));
    assert!(refuse(with("name", json!("a\nb"))).await.contains("name"));
    refuse(with("role", json!("emperor"))).await;
    admin.post(USERS, &with("username", json!("ADA"))).await.refused(409);
    admin.post(USERS, &bob()).await.expect(201);
    assert!(admin.post(USERS, &with("username", json!("carl"))).await.refused(429).contains("tm.users_max"));
}

#[tokio::test]
async fn the_last_administrator_stays() {
    let bed = Bed::start().await;
    let admin = bed.tenant("acme").await;
    let ada = format!("{USERS}/{}", text(&admin.get("/tm/api/v1/me").await.expect(200)["subject"]));
    for change in [json!({"role": "operator"}), json!({"role": null}), json!({"enabled": false})] {
        assert!(admin.put(&ada, &change).await.refused(409).contains("last administrator"));
    }
    admin.delete(&ada).await.refused(409);
    let mut second = bob();
    second["role"] = json!("admin");
    second["enabled"] = json!(false);
    let id = admin.user(second).await;
    admin.delete(&ada).await.refused(409);
    admin.put(&format!("{USERS}/{id}"), &json!({"enabled": true})).await.expect(200);
    admin.delete(&ada).await.expect(204);
}

#[tokio::test]
async fn of_two_administrators_who_leave_at_once_one_stays() {
    let bed = Bed::start().await;
    bed.tenant("acme").await;
    let platform = bed.platform();
    for round in 0..5 {
        let mut paths = Vec::new();
        let tenant = format!("t{round}");
        platform.post("/api/v2/tenants", &json!({"tenantId": tenant})).await.expect(201);
        for name in ["one", "two", "three"] {
            let body = json!({"username": name, "password": "password-of-all", "role": "admin"});
            let made = platform.post(&format!("{USERS}?tenantId={tenant}"), &body).await.expect(201);
            paths.push(format!("{USERS}/{}?tenantId={tenant}", text(&made["id"])));
        }
        let (demoted, disabled) = (json!({"role": "viewer"}), json!({"enabled": false}));
        let answers = tokio::join!(
            platform.put(&paths[0], &demoted),
            platform.put(&paths[1], &disabled),
            platform.delete(&paths[2])
        );
        let mut statuses = [answers.0.status, answers.1.status, answers.2.status];
        statuses.sort_unstable();
        assert_eq!(statuses[2], 409, "{statuses:?}");
        assert!(statuses[1] < 300, "{statuses:?}");
    }
}

#[tokio::test]
async fn a_tenant_sees_its_own_users_only() {
    let bed = Bed::start().await;
    let (acme, other) = (bed.tenant("acme").await, bed.tenant("other").await);
    let path = format!("{USERS}/{}", acme.user(bob()).await);
    other.get(&path).await.refused(404);
    other.put(&path, &json!({"role": "viewer"})).await.refused(404);
    other.put(&format!("{path}/password"), &json!({"newPassword": "another-password"})).await.refused(404);
    other.delete(&path).await.refused(404);
    other.get(&format!("{path}?tenantId=acme")).await.refused(403);
    assert_eq!(other.get(USERS).await.expect(200)["totalElements"], 1);
    // The same name in another tenant is another user.
    other.post(USERS, &bob()).await.expect(201);
    bed.login("acme", "bob@example.com", "password-of-bob").await;
    // The platform's administrators reach all.
    bed.platform().get(&format!("{path}?tenantId=acme")).await.expect(200);
    bed.platform().get(&path).await.refused(404);
}
