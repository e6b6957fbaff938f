//! Access tokens at the doors of the platform.

use base64::Engine as _;
use futures::StreamExt as _;
use ids::ReplicaId;
use ism::Record as _;
use ism::auth::{AUTHENTICATE_REQUEST, AUTHENTICATE_RESPONSE, AuthenticationRequest, AuthenticationResponse};
use ism::subject::instance;
use serde_json::{Value, json};
use testbed::PATIENCE;

use crate::bed::{ADA_PASSWORD, Bed};

fn base64(value: &Value) -> String {
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(value.to_string())
}

fn part(token: &str, index: usize) -> Value {
    let part = token.split('.').nth(index).unwrap();
    serde_json::from_slice(&base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

fn question(credential: &str) -> AuthenticationRequest {
    AuthenticationRequest {
        correlation_id: "c".to_owned(),
        timestamp: runtime::now_ms(),
        timeout: 10_000,
        credential: credential.into(),
    }
}

#[tokio::test]
async fn forged_tokens_are_refused() {
    let bed = Bed::start().await;
    let ada = bed.tenant("acme").await;
    let token = ada.credential();
    let signature = token.rsplit('.').next().unwrap();
    let (header, claims) = (part(token, 0), part(token, 1));
    // What is not changed stays as it was signed, to the letter.
    let as_signed = |index: usize, value: &Value| {
        let signed = token.split('.').nth(index).unwrap().to_owned();
        if *value == part(token, index) { signed } else { base64(value) }
    };
    let with = |header: &Value, claims: &Value, signature: &str| {
        format!("{}.{}.{signature}", as_signed(0, header), as_signed(1, claims))
    };
    let changed = |value: &Value, key: &str, to: Value| {
        let mut changed = value.clone();
        changed[key] = to;
        changed
    };
    bed.with(&with(&header, &claims, signature)).get("/tm/api/v1/me").await.expect(200);
    let forged = [
        with(&header, &changed(&claims, "tenant", json!("bandar")), signature),
        with(&header, &changed(&claims, "exp", json!(4_000_000_000_u64)), signature),
        with(&changed(&header, "alg", json!("none")), &claims, ""),
        with(&changed(&header, "alg", json!("None")), &claims, signature),
        with(&changed(&header, "alg", json!("HS256")), &claims, signature),
        with(&changed(&header, "kid", json!("other")), &claims, signature),
        with(&header, &changed(&claims, "iss", json!("https://elsewhere.example")), signature),
        with(&header, &claims, ""),
        format!("{token}x"),
    ];
    for forged in forged {
        let refused = bed.with(&forged).get("/tm/api/v1/me").await;
        assert_eq!(refused.status, 401, "{forged}: {}", refused.body);
    }
    // A token of the right form, by somebody else's key under our key's name.
    let own = jsonwebtoken::EncodingKey::from_ec_der(
        &rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap().serialize_der(),
    );
    let mut foreign = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256);
    foreign.kid = header["kid"].as_str().map(str::to_owned);
    let foreign = jsonwebtoken::encode(&foreign, &claims, &own).unwrap();
    bed.with(&foreign).get("/tm/api/v1/me").await.refused(401);
}

#[tokio::test]
async fn what_a_user_is_now_counts_and_not_what_the_token_says() {
    let bed = Bed::start().await;
    let admin = bed.tenant("acme").await;
    let bob = json!({"username": "bob", "password": "password-of-bob", "role": "admin"});
    let id = admin.user(bob).await;
    let path = format!("/api/v2/users/{id}");
    let bob = bed.logged_in("acme", "bob", "password-of-bob").await;
    let login = async || bed.logged_in("acme", "bob", "password-of-bob").await;
    let users = "/api/v2/users";
    bob.get(users).await.expect(200);

    admin.put(&path, &json!({"role": "viewer"})).await.expect(200);
    bob.finds(users, 403).await;
    assert_eq!(bob.get("/tm/api/v1/me").await.expect(200)["role"], "viewer");
    admin.put(&path, &json!({"role": "admin"})).await.expect(200);
    bob.finds(users, 200).await;

    admin.put(&path, &json!({"enabled": false})).await.expect(200);
    bob.finds(users, 401).await;
    admin.put(&path, &json!({"enabled": true})).await.expect(200);
    // The token is from before.
    bob.finds(users, 401).await;
    let bob = login().await;
    bob.finds(users, 200).await;

    admin.delete(&path).await.expect(204);
    bob.finds(users, 401).await;
}

#[tokio::test]
async fn the_answer_says_all_that_the_caller_may_do() {
    let bed = Bed::start().await;
    let admin = bed.tenant("acme").await;
    let bob = json!({"username": "bob", "password": "password-of-bob", "grants": {"app1": "operator"}});
    let id = admin.user(bob).await;
    let bob = bed.logged_in("acme", "bob", "password-of-bob").await;
    let ask = async |credential: &str| {
        let reply = AUTHENTICATE_RESPONSE.reply(&ReplicaId::parse("test").unwrap(), 1);
        let client = &bed.testbed.client;
        let mut answers = client.subscribe(reply.clone()).await.unwrap();
        let subject = AUTHENTICATE_REQUEST.at(instance::TM);
        client.publish_with_reply(subject, reply, question(credential).encode()).await.unwrap();
        let answer = tokio::time::timeout(PATIENCE, answers.next()).await.unwrap().unwrap();
        AuthenticationResponse::decode(&answer.payload).unwrap()
    };
    let answer = ask(bob.credential()).await;
    assert_eq!((answer.status_code, answer.tenant_id.as_deref()), (200, Some("acme")));
    assert_eq!((answer.subject, answer.name.as_deref()), (Some(id), Some("bob")));
    assert_eq!((answer.role, answer.grants["app1"].as_str()), (None, "operator"));
    let lives = answer.expires_at.unwrap() - runtime::now_ms();
    assert!((900_000..=960_000).contains(&lives), "{lives}");
    for unknown in ["", "guess", &"x".repeat(10_000), "a.b.c"] {
        let answer = ask(unknown).await;
        assert_eq!((answer.status_code, answer.tenant_id), (401, None), "{unknown}");
        assert!(answer.reason_phrase.is_some());
    }
}

#[tokio::test]
async fn replicas_follow_each_other() {
    let one = Bed::start().await;
    let nats = one.testbed.nats.url.clone();
    let two = Bed::start_with(&[("nats.url", &nats), ("postgres.url", &one.testbed.database.url)]).await;
    let admin = one.tenant("acme").await;
    let bob = json!({"username": "bob", "password": "password-of-bob", "role": "viewer"});
    let id = admin.user(bob).await;
    let bob = one.logged_in("acme", "bob", "password-of-bob").await;
    let elsewhere = two.with(bob.credential());
    elsewhere.get("/tm/api/v1/me").await.expect(200);

    one.platform().post("/tm/api/v1/signing-keys", &json!({})).await.expect(201);
    let ada = two.logged_in("acme", "ada", ADA_PASSWORD).await;
    one.with(ada.credential()).get("/tm/api/v1/me").await.expect(200);

    admin.put(&format!("/api/v2/users/{id}"), &json!({"enabled": false})).await.expect(200);
    bob.finds("/tm/api/v1/me", 401).await;
    elsewhere.finds("/tm/api/v1/me", 401).await;
}
