//! Credentials of MQTT clients, in `ccm`, and whether clients must have them.

use std::fmt;

use anyhow::Result;
use futures::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;
use serde_json::json;

use super::{CONCURRENCY, Rest};

const LOGINS: &str = "/ccm/api/v1/basic-credentials";
const CERTIFICATES: &str = "/ccm/api/v1/x509-credentials";

/// A user name and a password.
#[derive(Clone)]
pub(crate) struct Login {
    /// Where it is found over REST.
    pub(crate) path: String,
    name: String,
    password: String,
}

impl Login {
    /// As MQTT shows it.
    pub(crate) fn as_pair(&self) -> (&str, &str) {
        (&self.name, &self.password)
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A client's certificate, with those that lead to its root, and its key; all PEM.
pub(crate) struct ClientCertificate {
    /// Where it is found over REST.
    pub(crate) path: String,
    pub(crate) chain: String,
    pub(crate) key: String,
}

#[derive(Deserialize)]
struct CreatedLogin {
    id: String,
    login: String,
    /// There when the platform made it.
    password: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct IssuedCertificate {
    id: String,
    certificate_chain: String,
    private_key: String,
}

impl Rest {
    /// Makes user names that begin with `tag`, with this password or each with one that the platform makes.
    pub(crate) async fn create_logins(
        &self,
        tag: &str,
        chosen: Option<&str>,
        count: u32,
    ) -> Result<Vec<Login>> {
        stream::iter(0..count)
            .map(async |number| {
                let mut body = json!({ "username": format!("{tag}-{number}") });
                if let Some(chosen) = chosen {
                    body["password"] = chosen.into();
                }
                let CreatedLogin { id, login: name, password } = self.post(LOGINS, &body).await?;
                let password = password.as_deref().or(chosen).unwrap_or_default().to_owned();
                anyhow::Ok(Login { path: format!("{LOGINS}/{id}"), name, password })
            })
            .buffer_unordered(CONCURRENCY)
            .try_collect()
            .await
    }

    /// Makes certificates of clients.
    pub(crate) async fn create_certificates(&self, tag: &str, count: u32) -> Result<Vec<ClientCertificate>> {
        stream::iter(0..count)
            .map(async |number| {
                let body = json!({ "commonName": format!("{tag}-{number}") });
                let issued: IssuedCertificate = self.post(CERTIFICATES, &body).await?;
                anyhow::Ok(ClientCertificate {
                    path: format!("{CERTIFICATES}/{}", issued.id),
                    chain: issued.certificate_chain,
                    key: issued.private_key,
                })
            })
            .buffer_unordered(CONCURRENCY)
            .try_collect()
            .await
    }

    /// Deletes what is at these paths.
    pub(crate) async fn delete_all(&self, paths: &[String]) -> Result<()> {
        stream::iter(paths)
            .map(anyhow::Ok)
            .try_for_each_concurrent(CONCURRENCY, |path| self.delete(path))
            .await
    }

    /// From now on, who speaks MQTT over TCP for an endpoint of the tenant must have logged in.
    pub(crate) async fn require_passwords(&self) -> Result<()> {
        let block = json!({ "transports": { "mqtt": { "tcp": { "basic-auth": { "required": true } } } } });
        let config = json!({ "kpc": { "kaa": { "tenants": { &self.tenant: { "config": block } } } } });
        self.put("/tekton/api/v1/tenant-configs", &config).await
    }

    /// By which clients know the gateway's certificate; PEM.
    pub(crate) async fn root_certificate(&self) -> Result<String> {
        let root = self.send(self.http.get(self.url("/kpc/api/v1/certificates/root"))).await?;
        Ok(String::from_utf8(root)?)
    }
}

#[cfg(test)]
impl Login {
    pub(crate) fn new(name: &str, password: &str) -> Self {
        Self { path: String::new(), name: name.to_owned(), password: password.to_owned() }
    }
}

#[cfg(test)]
impl ClientCertificate {
    pub(crate) fn new(chain: &str, key: &str) -> Self {
        Self { path: String::new(), chain: chain.to_owned(), key: key.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_shown() {
        let shown = format!("{:?}", Login::new("meter@acme", "hunter2"));
        assert!(shown.contains("meter@acme") && !shown.contains("hunter2"), "{shown}");
    }
}
