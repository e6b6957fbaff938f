//! Tokens of an external issuer, which the test plays over HTTP.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Json;
use axum::routing::get;
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::bed::Bed;

/// A key for these tests only.
const RSA: &[u8] = include_bytes!("rsa-2048.pem");

/// An issuer like Keycloak.
struct Issuer {
    url: String,
    keys: Arc<Mutex<JwkSet>>,
    fetches: Arc<AtomicUsize>,
}

/// A key of the issuer.
struct Key {
    kid: &'static str,
    algorithm: Algorithm,
    key: EncodingKey,
}

impl Key {
    fn rsa(kid: &'static str) -> Self {
        Self { kid, algorithm: Algorithm::RS256, key: EncodingKey::from_rsa_pem(RSA).unwrap() }
    }

    fn ec(kid: &'static str) -> Self {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        Self { kid, algorithm: Algorithm::ES256, key: EncodingKey::from_ec_der(&pair.serialize_der()) }
    }

    fn public(&self) -> Jwk {
        let mut jwk = Jwk::from_encoding_key(&self.key, self.algorithm).unwrap();
        jwk.common.key_id = Some(self.kid.to_owned());
        jwk
    }

    fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = Some(self.kid.to_owned());
        jsonwebtoken::encode(&header, claims, &self.key).unwrap()
    }
}

impl Issuer {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/realms/plant", listener.local_addr().unwrap());
        let keys = Arc::new(Mutex::new(JwkSet { keys: Vec::new() }));
        let fetches = Arc::new(AtomicUsize::new(0));
        let discovery = json!({"issuer": url, "jwks_uri": format!("{url}/certs")});
        let (published, counted) = (keys.clone(), fetches.clone());
        let router = axum::Router::new()
            .route(
                "/realms/plant/.well-known/openid-configuration",
                get(async move || Json(discovery.clone())),
            )
            .route(
                "/realms/plant/certs",
                get(async move || {
                    counted.fetch_add(1, Ordering::SeqCst);
                    Json(serde_json::to_value(&*published.lock()).unwrap())
                }),
            );
        tokio::spawn(axum::serve(listener, router).into_future());
        Self { url, keys, fetches }
    }

    fn publish(&self, keys: &[&Key]) {
        self.keys.lock().keys = keys.iter().map(|key| key.public()).collect();
    }

    /// The setting `tm.oidc` for this issuer.
    fn setting(&self, more: &str) -> String {
        format!(
            "[{{issuer=\"{}\",audience=\"console\",role_claim=\"realm_access.roles\",\
             roles={{\"boss\"=\"admin\",\"guest\"=\"viewer\"}},allow_http=true,{more}}}]",
            self.url
        )
    }

    fn claims(&self) -> Value {
        let now = runtime::now_ms() / 1_000;
        json!({
            "iss": self.url, "aud": ["account", "console"], "sub": "4711", "preferred_username": "grace",
            "iat": now, "exp": now + 300, "typ": "Bearer", "org": "acme",
            "realm_access": {"roles": ["offline_access", "guest"]},
        })
    }

    fn claims_with(&self, key: &str, value: Value) -> Value {
        let mut claims = self.claims();
        claims[key] = value;
        claims
    }
}

async fn me(bed: &Bed, token: &str) -> (u16, Value) {
    let answer = bed.with(token).get("/tm/api/v1/me").await;
    (answer.status, answer.body)
}

#[tokio::test]
async fn tokens_are_mapped_to_tenant_and_role() {
    let issuer = Issuer::start().await;
    let (rsa, ec) = (Key::rsa("rsa-1"), Key::ec("ec-1"));
    issuer.publish(&[&rsa, &ec]);
    let bed = Bed::start_with(&[("tm.oidc", &issuer.setting("tenant_claim=\"org\""))]).await;
    bed.tenant("acme").await;
    for key in [&rsa, &ec] {
        let (status, me) = me(&bed, &key.sign(&issuer.claims())).await;
        assert_eq!(status, 200, "{me}");
        assert_eq!(
            (&me["tenantId"], &me["name"], &me["role"]),
            (&json!("acme"), &json!("grace"), &json!("viewer"))
        );
        assert_eq!(me["subject"], format!("{}#4711", issuer.url));
    }
    assert_eq!(issuer.fetches.load(Ordering::SeqCst), 1);
    let boss = issuer.claims_with("realm_access", json!({"roles": ["guest", "boss"]}));
    assert_eq!(me(&bed, &ec.sign(&boss)).await.1["role"], "admin");
    // Who has no role that is known here may do nothing.
    assert_eq!(me(&bed, &ec.sign(&issuer.claims_with("realm_access", json!({})))).await.0, 403);

    let token = ec.sign(&issuer.claims_with("sub", json!("another")));
    let disable = |enabled: bool| json!({"enabled": enabled});
    bed.platform().put("/api/v2/tenants/acme", &disable(false)).await.expect(200);
    bed.with(&token).finds("/tm/api/v1/me", 403).await;
    bed.platform().put("/api/v2/tenants/acme", &disable(true)).await.expect(200);
    bed.with(&token).finds("/tm/api/v1/me", 200).await;
}

#[tokio::test]
async fn what_the_issuer_did_not_sign_for_us_is_refused() {
    let issuer = Issuer::start().await;
    let (ec, stranger) = (Key::ec("ec-1"), Key::ec("ec-1"));
    issuer.publish(&[&ec]);
    let bed = Bed::start_with(&[("tm.oidc", &issuer.setting("tenant_claim=\"org\""))]).await;
    bed.tenant("acme").await;
    assert_eq!(me(&bed, &ec.sign(&issuer.claims())).await.0, 200);
    let now = runtime::now_ms() / 1_000;
    let none = Value::Null;
    for (key, value) in [
        ("iss", json!("https://elsewhere.example")),
        ("aud", json!("account")),
        ("aud", none.clone()),
        ("exp", json!(now - 61)),
        ("exp", none.clone()),
        ("nbf", json!(now + 120)),
        ("sub", none.clone()),
        ("org", json!("nowhere")),
        // The platform's tenant, unless the configuration names it.
        ("org", json!(crate::bed::PLATFORM)),
        ("org", json!("No Tenant")),
        ("org", none),
        ("typ", json!("ID")),
    ] {
        let (status, body) = me(&bed, &ec.sign(&issuer.claims_with(key, value.clone()))).await;
        assert_eq!(status, 401, "{key} {value}: {body}");
    }
    assert_eq!(me(&bed, &stranger.sign(&issuer.claims())).await.0, 401);

    // The public key as a shared secret.
    let public = jsonwebtoken::DecodingKey::from_jwk(&ec.public()).unwrap();
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some("ec-1".to_owned());
    let secret = EncodingKey::from_secret(public.try_get_as_bytes().unwrap());
    let confused = jsonwebtoken::encode(&header, &issuer.claims(), &secret).unwrap();
    assert_eq!(me(&bed, &confused).await.0, 401);
}

#[tokio::test]
async fn a_rotated_key_is_fetched_once() {
    let issuer = Issuer::start().await;
    let (first, second, third) = (Key::ec("ec-1"), Key::ec("ec-2"), Key::ec("ec-3"));
    issuer.publish(&[&first]);
    let setting = issuer.setting(&format!("tenant=\"acme\",jwks_url=\"{}/certs\",refetch_ms=0", issuer.url));
    let bed = Bed::start_with(&[("tm.oidc", &setting)]).await;
    bed.tenant("acme").await;
    assert_eq!(me(&bed, &first.sign(&issuer.claims())).await.0, 200);
    issuer.publish(&[&second]);
    assert_eq!(me(&bed, &second.sign(&issuer.claims())).await.0, 200);
    assert_eq!(me(&bed, &first.sign(&issuer.claims_with("sub", json!("other")))).await.0, 401);
    assert_eq!(me(&bed, &third.sign(&issuer.claims())).await.0, 401);
}

#[tokio::test]
async fn unknown_keys_do_not_drive_fetches() {
    let issuer = Issuer::start().await;
    let (known, unknown) = (Key::ec("ec-1"), Key::ec("ec-2"));
    issuer.publish(&[&known]);
    let bed = Bed::start_with(&[("tm.oidc", &issuer.setting("tenant=\"acme\""))]).await;
    bed.tenant("acme").await;
    assert_eq!(me(&bed, &known.sign(&issuer.claims())).await.0, 200);
    for subject in 0..10 {
        let token = unknown.sign(&issuer.claims_with("sub", json!(subject.to_string())));
        assert_eq!(me(&bed, &token).await.0, 401);
    }
    assert_eq!(issuer.fetches.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_issuer_that_is_away_is_told_as_such() {
    let issuer = Issuer::start().await;
    let key = Key::ec("ec-1");
    let setting = issuer.setting("tenant=\"acme\",jwks_url=\"http://127.0.0.1:9/certs\"");
    let bed = Bed::start_with(&[("tm.oidc", &setting)]).await;
    bed.tenant("acme").await;
    assert_eq!(me(&bed, &key.sign(&issuer.claims())).await.0, 503);
}
