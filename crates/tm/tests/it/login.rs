//! Passwords in, tokens out.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::bed::{ADA_PASSWORD, Answer, Bed, ROOT_PASSWORD, text};

async fn try_realm(bed: &Bed, realm: &str, username: &str, password: &str) -> Answer {
    let fields =
        [("grant_type", "password"), ("client_id", "any"), ("username", username), ("password", password)];
    bed.nobody().form(realm, "token", &fields).await
}

#[tokio::test]
async fn a_user_logs_in_at_either_place() {
    let bed = Bed::start().await;
    bed.tenant("acme").await;
    let own = bed.login("acme", "ADA", ADA_PASSWORD).await;
    let at = json!({"username": "ada@acme", "password": ADA_PASSWORD});
    let named = bed.nobody().post("/tm/api/v1/login", &at).await.expect(200);
    let keycloak = try_realm(&bed, "acme", "ada", ADA_PASSWORD).await.expect(200);
    for tokens in [own, named, keycloak] {
        assert_eq!(tokens["expires_in"], 900);
        assert!(tokens["refresh_expires_in"].as_i64().is_some_and(|s| (80_000..=86_400).contains(&s)));
        assert_eq!(tokens["token_type"], "Bearer");
        let me = bed.with(&text(&tokens["access_token"])).get("/tm/api/v1/me").await.expect(200);
        assert_eq!(
            (&me["tenantId"], &me["name"], &me["role"]),
            (&json!("acme"), &json!("Ada"), &json!("admin"))
        );
        assert_eq!(me["platformAdministrator"], false);
        assert!(me["permissions"].as_array().unwrap().contains(&json!("tenant:user:create")));
        assert!(!me["permissions"].as_array().unwrap().contains(&json!("kaa:tenant:create")));
    }
    let ada = &bed.logged_in("acme", "ada", ADA_PASSWORD).await.get("/api/v2/users").await.expect(200)["content"]
        [0];
    assert!(ada["lastLoginDate"].is_string(), "{ada}");
}

#[tokio::test]
async fn nobody_learns_which_users_there_are() {
    let bed = Bed::start().await;
    bed.tenant("acme").await;
    let wrong = bed.try_login("acme", "ada", "wrong").await.refused(401);
    assert_eq!(bed.try_login("acme", "bob", "wrong").await.refused(401), wrong);
    assert_eq!(bed.try_login("nowhere", "ada", "wrong").await.refused(401), wrong);
    assert_eq!(bed.try_login("bandar", "ada", ADA_PASSWORD).await.refused(401), wrong);
    assert_eq!(bed.try_login("acme", "a b", "wrong").await.refused(401), wrong);
    let long = "x".repeat(5_000);
    assert_eq!(bed.try_login("acme", "ada", &long).await.refused(401), wrong);
}

#[tokio::test]
async fn errors_of_the_token_endpoint_are_those_of_oauth() {
    let bed = Bed::start().await;
    bed.tenant("acme").await;
    let error = |answer: Answer, status: u16| text(&answer.expect(status)["error"]);
    assert_eq!(error(try_realm(&bed, "acme", "ada", "wrong").await, 401), "invalid_grant");
    assert_eq!(error(try_realm(&bed, "No Realm", "ada", "x").await, 404), "invalid_request");
    let nobody = bed.nobody();
    let token = async |fields: &[(&str, &str)]| nobody.form("acme", "token", fields).await;
    assert_eq!(error(token(&[]).await, 400), "invalid_request");
    assert_eq!(
        error(token(&[("grant_type", "password"), ("username", "ada")]).await, 400),
        "invalid_request"
    );
    assert_eq!(error(token(&[("grant_type", "implicit")]).await, 400), "unsupported_grant_type");
    let client = [("grant_type", "client_credentials"), ("client_id", "x"), ("client_secret", "y")];
    assert_eq!(error(token(&client).await, 401), "invalid_client");
    let json = nobody.post("/auth/realms/acme/protocol/openid-connect/token", &json!({})).await;
    assert_eq!(error(json, 415), "invalid_request");
}

#[tokio::test]
async fn failures_in_a_row_lock_a_user_name_whether_it_exists_or_not() {
    let bed = Bed::start().await;
    let admin = bed.tenant("acme").await;
    let id = admin.user(json!({"username": "bob", "password": "password-of-bob", "role": "viewer"})).await;
    for username in ["bob", "nobody"] {
        let mut refused = 0;
        // The locks grow, so that also a slow machine meets one.
        let locked = loop {
            let answer = bed.try_login("acme", username, "wrong").await;
            match answer.status {
                401 => refused += 1,
                _ => break answer,
            }
            assert!(refused < 20, "{username} is never locked");
        };
        assert!(refused >= 5, "{username} was locked after {refused} failures");
        assert!(locked.retry_after.unwrap() >= 1);
        assert!(locked.refused(429).contains("failed logins"));
    }
    let body = json!({"tenant": "acme", "username": "bob", "password": "password-of-bob"});
    // The user himself is elsewhere, and not locked out by whoever guesses.
    for _ in 0..2 {
        bed.nobody_at([127, 0, 0, 2]).post("/tm/api/v1/login", &body).await.expect(200);
        for _ in 0..5 {
            bed.try_login("acme", "bob", "wrong").await;
        }
    }
    bed.try_login("acme", "bob", "password-of-bob").await.expect(429);
    let path = format!("/api/v2/users/{id}/password");
    admin.put(&path, &json!({"newPassword": "another-password"})).await.expect(204);
    bed.login("acme", "bob", "another-password").await;
    bed.try_login("acme", "bob", "password-of-bob").await.refused(401);
}

#[tokio::test]
async fn logins_side_by_side_do_not_lock_each_other() {
    let bed = Bed::start_with(&[("tm.password_checks_max", "4")]).await;
    bed.tenant("acme").await;
    for _ in 0..50 {
        let logins = (0..4).map(|_| bed.login("acme", "ada", ADA_PASSWORD));
        futures::future::join_all(logins).await;
    }
}

#[tokio::test]
async fn guesses_side_by_side_do_not_outrun_the_lock() {
    let bed = Bed::start().await;
    bed.tenant("acme").await;
    let guesses = (0..40).map(|guess| {
        let bed = &bed;
        async move { bed.try_login("acme", "ada", &format!("guess-{guess}")).await.status }
    });
    let answers = futures::future::join_all(guesses).await;
    let tried = answers.iter().filter(|status| **status == 401).count();
    // Five, and one more for each lock that ended while they ran: 1 s, 2 s, 4 s and so on.
    assert!((5..=12).contains(&tried), "{answers:?}");
    assert!(answers.iter().all(|status| [401, 429].contains(status)), "{answers:?}");
}

#[tokio::test]
async fn guesses_from_everywhere_lock_for_a_short_while() {
    let bed = Bed::start().await;
    let body = json!({"tenant": "bandar", "username": "root", "password": "wrong"});
    let mut refused = 0;
    let locked = loop {
        let from = bed.nobody_at([127, 0, 1, refused / 4]);
        let answer = from.post("/tm/api/v1/login", &body).await;
        match answer.status {
            401 => refused += 1,
            _ => break answer,
        }
        assert!(refused < 100, "it is never locked");
    };
    assert!(refused >= 50, "it was locked after {refused} failures");
    assert!((1..=30).contains(&locked.retry_after.unwrap()));
    locked.refused(429);
}

#[tokio::test]
async fn a_disabled_user_does_not_log_in() {
    let bed = Bed::start().await;
    let admin = bed.tenant("acme").await;
    let id = admin.user(json!({"username": "bob", "password": "password-of-bob"})).await;
    admin.put(&format!("/api/v2/users/{id}"), &json!({"enabled": false})).await.expect(200);
    assert!(bed.try_login("acme", "bob", "password-of-bob").await.refused(403).contains("disabled"));
    bed.try_login("acme", "bob", "wrong").await.refused(401);
}

#[tokio::test]
async fn ones_own_password_needs_the_current_one() {
    let bed = Bed::start().await;
    let admin = bed.tenant("acme").await;
    let id = admin.user(json!({"username": "bob", "password": "password-of-bob", "role": "viewer"})).await;
    let bob = bed.logged_in("acme", "bob", "password-of-bob").await;
    let change = |current: &str, new: &str| json!({"currentPassword": current, "newPassword": new});
    bob.put("/tm/api/v1/me/password", &change("wrong", "new-password")).await.refused(403);
    let short = bob.put("/tm/api/v1/me/password", &change("password-of-bob", "short")).await.refused(400);
    assert!(short.contains("tm.password_chars_min"), "{short}");
    // A viewer changes nobody's, an administrator his own with the current one only.
    bob.put(&format!("/api/v2/users/{id}/password"), &json!({"newPassword": "new-password"}))
        .await
        .refused(403);
    let ada = text(&admin.get("/tm/api/v1/me").await.expect(200)["subject"]);
    let path = format!("/api/v2/users/{ada}/password");
    assert!(
        admin
            .put(&path, &json!({"newPassword": "new-password"}))
            .await
            .refused(400)
            .contains("currentPassword")
    );

    bob.put("/tm/api/v1/me/password", &change("password-of-bob", "new-password")).await.expect(204);
    bob.finds("/tm/api/v1/me", 401).await;
    bed.logged_in("acme", "bob", "new-password").await.get("/tm/api/v1/me").await.expect(200);
    bed.platform().put("/tm/api/v1/me/password", &change("x", "new-password")).await.refused(403);
}

#[tokio::test]
async fn others_can_check_tokens_by_the_published_keys() {
    let bed = Bed::start().await;
    let nobody = bed.nobody();
    let found = nobody.get("/auth/realms/bandar/.well-known/openid-configuration").await.expect(200);
    let certs = text(&found["jwks_uri"]);
    let path = certs.split_once("/auth/").map(|(_, rest)| format!("/auth/{rest}")).unwrap();
    let keys: jsonwebtoken::jwk::JwkSet =
        serde_json::from_value(nobody.get(&path).await.expect(200)).unwrap();
    let own: Value = nobody.get("/tm/api/v1/jwks").await.expect(200);
    assert_eq!(serde_json::to_value(&keys).unwrap(), own);
    let members: BTreeSet<&str> = own["keys"][0].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(members, BTreeSet::from(["kty", "crv", "x", "y", "alg", "use", "kid"]), "nothing private");

    let token = text(&bed.login("bandar", "root", ROOT_PASSWORD).await["access_token"]);
    let kid = jsonwebtoken::decode_header(&token).unwrap().kid.unwrap();
    let key = jsonwebtoken::DecodingKey::from_jwk(keys.find(&kid).unwrap()).unwrap();
    let mut validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::ES256);
    validation.set_audience(&["bandar"]);
    validation.set_issuer(&[text(&found["issuer"])]);
    let claims = jsonwebtoken::decode::<Value>(&token, &key, &validation).unwrap().claims;
    assert_eq!(
        (&claims["tenant"], &claims["role"], &claims["typ"]),
        (&json!("bandar"), &json!("admin"), &json!("user"))
    );
}
