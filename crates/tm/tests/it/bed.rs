//! A running tenant manager, and those who call it.

use std::net::IpAddr;
use std::time::Duration;

use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};
use testbed::{PATIENCE, Testbed};
use testkit::{Port, eventually};
use tm::Tm;

/// The platform's tenant.
pub(crate) const PLATFORM: &str = "bandar";
pub(crate) const PLATFORM_KEY: &str = "key-of-the-platform";
pub(crate) const ROOT_PASSWORD: &str = "password-of-root";
/// The password of the administrators that [`Bed::tenant`] makes; their user name is `ada`.
pub(crate) const ADA_PASSWORD: &str = "password-of-ada";
pub(crate) const KEY: &str = "c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00";

pub(crate) struct Bed {
    pub(crate) testbed: Testbed,
    _port: Port,
    base: String,
    client: Client,
}

/// Somebody who calls with a credential, or with none.
#[derive(Clone)]
pub(crate) struct Caller {
    client: Client,
    base: String,
    credential: Option<String>,
}

/// The answer to a call.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
    pub(crate) retry_after: Option<u64>,
    pub(crate) location: Option<String>,
}

impl Answer {
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        self.body
    }

    /// The message of a refusal.
    #[track_caller]
    pub(crate) fn refused(self, status: u16) -> String {
        text(&self.expect(status)["message"])
    }
}

#[track_caller]
pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

impl Bed {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub(crate) async fn start_with(settings: &[(&str, &str)]) -> Self {
        let port = Port::reserve();
        let listen = format!("127.0.0.1:{}", port.number());
        let mut all = vec![
            ("http.listen", listen.as_str()),
            ("http.auth.platform_tenant", PLATFORM),
            ("tm.key_encryption_key", KEY),
            // As cheap as can be: the tests are not about the cost.
            ("tm.argon2.memory_kib", "32"),
            ("tm.argon2.iterations", "1"),
            ("tm.password_wait_ms", "20000"),
            ("tm.bootstrap.tenant", PLATFORM),
            ("tm.bootstrap.admin_user", "root"),
            ("tm.bootstrap.admin_password", ROOT_PASSWORD),
            ("tm.bootstrap.api_key", PLATFORM_KEY),
        ];
        all.extend(settings);
        let testbed = Testbed::start(&[runtime::entry::<Tm>()], &all).await;
        Self { testbed, _port: port, base: format!("http://{listen}"), client: Client::new() }
    }

    /// Whoever shows this credential.
    pub(crate) fn with(&self, credential: &str) -> Caller {
        Caller { credential: Some(credential.to_owned()), ..self.nobody() }
    }

    pub(crate) fn nobody(&self) -> Caller {
        Caller { client: self.client.clone(), base: self.base.clone(), credential: None }
    }

    /// Somebody without credentials who calls from another address of this machine.
    pub(crate) fn nobody_at(&self, address: [u8; 4]) -> Caller {
        let client = Client::builder().local_address(IpAddr::from(address)).build().unwrap();
        Caller { client, ..self.nobody() }
    }

    /// An administrator of the platform.
    pub(crate) fn platform(&self) -> Caller {
        self.with(PLATFORM_KEY)
    }

    /// Logs in; the tokens.
    pub(crate) async fn login(&self, tenant: &str, username: &str, password: &str) -> Value {
        self.try_login(tenant, username, password).await.expect(200)
    }

    pub(crate) async fn try_login(&self, tenant: &str, username: &str, password: &str) -> Answer {
        let body = json!({"tenant": tenant, "username": username, "password": password});
        self.nobody().post("/tm/api/v1/login", &body).await
    }

    /// Makes a tenant with the administrator `ada`, who is logged in.
    pub(crate) async fn tenant(&self, id: &str) -> Caller {
        let admin = json!({"username": "ada", "name": "Ada", "password": ADA_PASSWORD});
        self.platform().post("/api/v2/tenants", &json!({"tenantId": id, "admin": admin})).await.expect(201);
        self.logged_in(id, "ada", ADA_PASSWORD).await
    }

    pub(crate) async fn logged_in(&self, tenant: &str, username: &str, password: &str) -> Caller {
        self.with(&text(&self.login(tenant, username, password).await["access_token"]))
    }
}

impl Caller {
    pub(crate) fn credential(&self) -> &str {
        self.credential.as_deref().unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }

    /// Waits until a `GET` is answered so: the door that is asked hears of changes on its own.
    pub(crate) async fn finds(&self, path: &str, status: u16) -> Answer {
        eventually(&format!("{path} answers {status}"), Duration::from_secs(5), async || {
            Some(self.get(path).await).filter(|answer| answer.status == status)
        })
        .await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(Method::PUT, path).json(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send(self.request(Method::DELETE, path)).await
    }

    /// Posts a form to Keycloak's place of a realm.
    pub(crate) async fn form(&self, realm: &str, what: &str, fields: &[(&str, &str)]) -> Answer {
        let path = format!("/auth/realms/{realm}/protocol/openid-connect/{what}");
        self.send(self.request(Method::POST, &path).form(fields)).await
    }

    /// Makes a user and logs him in.
    pub(crate) async fn user(&self, body: Value) -> String {
        text(&self.post("/api/v2/users", &body).await.expect(201)["id"])
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.base)).timeout(PATIENCE);
        match &self.credential {
            Some(credential) => request.bearer_auth(credential),
            None => request,
        }
    }

    async fn send(&self, request: RequestBuilder) -> Answer {
        let response = request.send().await.unwrap();
        let header = |name| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        let retry_after = header("retry-after").map(|seconds| seconds.parse().unwrap());
        let (status, location) = (response.status().as_u16(), header("location"));
        let text = response.text().await.unwrap();
        let body = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() };
        Answer { status, body, retry_after, location }
    }
}
