//! The few REST calls that the demo needs.

use std::time::Duration;

use anyhow::{Context as _, bail};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

const TIMEOUT: Duration = Duration::from_secs(30);
/// Token states in which a device is let in.
const USABLE: [&str; 2] = ["Inactive", "Active"];

/// A platform's REST interfaces, with an API key.
pub(crate) struct Api {
    client: reqwest::Client,
    url: String,
    key: String,
}

impl Api {
    pub(crate) fn new(url: &str, key: &str) -> anyhow::Result<Self> {
        if !url.starts_with("http://") {
            bail!("the address `{url}` must start with http://");
        }
        let client = reqwest::Client::builder().timeout(TIMEOUT).no_proxy().build()?;
        Ok(Self { client, url: url.to_owned(), key: key.to_owned() })
    }

    /// The name of the first application that is shown as `display_name`.
    pub(crate) async fn application_called(&self, display_name: &str) -> anyhow::Result<Option<String>> {
        let applications = self.get("/tekton/api/v1/applications").await?.unwrap_or_default();
        let found =
            items(&applications).iter().find(|application| application["displayName"] == display_name);
        found.map(|application| text(application, "name")).transpose()
    }

    pub(crate) async fn create_application(&self, display_name: &str) -> anyhow::Result<String> {
        let body = json!({ "displayName": display_name, "description": "Made by `bandar demo`." });
        text(&self.post("/tekton/api/v1/applications", &body).await?, "name")
    }

    /// The names of an application's versions; `None` when there is no such application.
    pub(crate) async fn application_versions(
        &self,
        application: &str,
    ) -> anyhow::Result<Option<Vec<String>>> {
        let path = format!("/tekton/api/v1/applications/{application}/app-versions");
        let Some(versions) = self.get(&path).await? else { return Ok(None) };
        items(&versions).iter().map(|version| text(version, "name")).collect::<Result<_, _>>().map(Some)
    }

    pub(crate) async fn create_version(&self, application: &str) -> anyhow::Result<String> {
        let path = format!("/tekton/api/v1/applications/{application}/app-versions");
        text(&self.post(&path, &json!({ "nameSuffix": "v1" })).await?, "name")
    }

    /// A new endpoint's id and token.
    pub(crate) async fn create_endpoint(&self, version: &str) -> anyhow::Result<(String, String)> {
        let endpoint =
            self.post("/epr/api/v1/endpoints", &json!({ "appVersion": { "name": version } })).await?;
        Ok((text(&endpoint, "endpointId")?, text(&endpoint, "token")?))
    }

    /// The application version of an endpoint; `None` when there is no such endpoint.
    pub(crate) async fn endpoint(&self, id: &str) -> anyhow::Result<Option<String>> {
        let endpoint = self.get(&format!("/epr/api/v1/endpoints/{id}")).await?;
        endpoint.map(|endpoint| text(&endpoint["appVersion"], "name")).transpose()
    }

    /// Whether any token of the endpoint lets a device in.
    pub(crate) async fn has_usable_token(&self, id: &str) -> anyhow::Result<bool> {
        let tokens = self.get(&format!("/cm/api/v1/endpoints/{id}/tokens")).await?.unwrap_or_default();
        let usable = |token: &Value| token["status"].as_str().is_some_and(|status| USABLE.contains(&status));
        Ok(items(&tokens).iter().any(usable))
    }

    async fn get(&self, path: &str) -> anyhow::Result<Option<Value>> {
        self.call(Method::GET, path, None).await
    }

    async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let created = self.call(Method::POST, path, Some(body)).await?;
        created.with_context(|| format!("{}{path} does not exist", self.url))
    }

    /// Calls and returns the body, or `None` for 404; any other refusal is an error with its message.
    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Option<Value>> {
        let what = format!("{method} {}{path}", self.url);
        let mut request = self.client.request(method, format!("{}{path}", self.url));
        request = request.header("x-iamcore-api-key", &self.key);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response =
            request.send().await.with_context(|| format!("{what}: is the platform running there?"))?;
        let status = response.status();
        let body = response.text().await.with_context(|| what.clone())?;
        match status {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => serde_json::from_str(&body).map(Some).context(what),
            status => {
                let body: Value = serde_json::from_str(&body).unwrap_or_default();
                bail!(
                    "{what} was refused with {status}: {}",
                    body["message"].as_str().unwrap_or("no message")
                )
            }
        }
    }
}

/// The items of a list, paged or not.
fn items(list: &Value) -> &[Value] {
    list.get("content").unwrap_or(list).as_array().map_or(&[], Vec::as_slice)
}

fn text(object: &Value, key: &str) -> anyhow::Result<String> {
    object[key].as_str().map(str::to_owned).with_context(|| format!("the answer holds no `{key}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_paged_or_not() {
        assert_eq!(items(&json!([1, 2])).len(), 2);
        assert_eq!(items(&json!({ "totalElements": 1, "content": [1] })).len(), 1);
        assert!(items(&Value::Null).is_empty());
    }
}
