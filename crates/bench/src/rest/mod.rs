//! What is needed over the platform's REST API: applications with their endpoints, credentials, and the stored series.

mod credentials;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

pub(crate) use self::credentials::{ClientCertificate, Login};
use crate::load::Endpoint;
use crate::sample;

/// Requests at the same time.
pub(crate) const CONCURRENCY: usize = 4;

/// The time for one request, which may read tens of thousands of points.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// A platform that is just coming back answers 503: how often a request is tried, and how long apart.
const TRIES: u32 = 20;
const TRY_EVERY: Duration = Duration::from_millis(500);

/// A client of the REST API.
pub(crate) struct Rest {
    http: reqwest::Client,
    base: String,
    tenant: String,
    api_key: String,
}

/// An application made for one load.
#[derive(Debug)]
pub(crate) struct Application {
    pub(crate) name: String,
    pub(crate) version: String,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CreatedEndpoint {
    endpoint_id: String,
    token: String,
}

/// A stored point with one value called `value`.
#[derive(Debug, Deserialize)]
pub(crate) struct Point {
    pub(crate) timestamp: DateTime<Utc>,
    pub(crate) values: Values,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Values {
    pub(crate) value: f64,
}

/// An answer that is no success.
#[derive(Debug, thiserror::Error)]
#[error("{what} answered {status}: {text}")]
struct Unexpected {
    /// The method and the path.
    what: String,
    status: u16,
    text: String,
}

/// Points by series name.
pub(crate) type Series = BTreeMap<String, Vec<Point>>;

impl Rest {
    /// A client for the platform at `base`, with the API key of its data directory.
    pub(crate) fn new(base: &str, data: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Credentials {
            tenant: String,
            api_key: String,
        }
        let file = data.join("credentials.json");
        let text = std::fs::read(&file).with_context(|| {
            format!("cannot read {}: name the platform's data directory with --data", file.display())
        })?;
        let Credentials { tenant, api_key } = serde_json::from_slice(&text)
            .with_context(|| format!("{} is not as expected", file.display()))?;
        let http = reqwest::Client::builder().timeout(REQUEST_TIMEOUT).build()?;
        Ok(Self { http, base: base.trim_end_matches('/').to_owned(), tenant, api_key })
    }

    /// Makes an application whose messages carry their own timestamps, and its version.
    pub(crate) async fn create_application(&self, title: &str) -> Result<Application> {
        let applications = "/tekton/api/v1/applications";
        let Named { name } = self.post(applications, &json!({ "displayName": title })).await?;
        let Named { name: version } =
            self.post(&format!("{applications}/{name}/app-versions"), &json!({})).await?;
        let settings = json!({ "time-series": {
            "auto-extract": true,
            "timestamp": {
                "path": sample::TIMESTAMP_FIELD, "format": "millis-unix-epoch", "fallback-strategy": "fail"
            },
        }});
        let config = json!({ "epts": { "kaa": { "applications": { &name: settings } } } });
        self.put(&format!("/tekton/api/v1/app-configs/applications/{name}"), &config).await?;
        Ok(Application { name, version })
    }

    /// Makes endpoints whose messages carry timestamps from `base_ms` on.
    pub(crate) async fn create_endpoints(
        &self,
        version: &str,
        count: u32,
        base_ms: i64,
    ) -> Result<Vec<Endpoint>> {
        stream::iter(0..count)
            .map(|_| async {
                let body = json!({ "appVersion": { "name": version } });
                let CreatedEndpoint { endpoint_id: id, token } =
                    self.post("/epr/api/v1/endpoints", &body).await?;
                anyhow::Ok(Endpoint { id, token, base_ms })
            })
            .buffer_unordered(CONCURRENCY)
            .try_collect()
            .await
    }

    /// The points of an endpoint in all series of the load, `from` inclusive, `to` exclusive.
    pub(crate) async fn read(
        &self,
        application: &str,
        endpoint_id: &str,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
    ) -> Result<Series> {
        let path = self.url(&format!("/epts/api/v1/applications/{application}/time-series/data"));
        let range = [from, to].map(|time| time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true));
        let request = self.http.get(path).query(&[
            ("timeSeriesName", sample::SERIES.join(",").as_str()),
            ("endpointId", endpoint_id),
            ("fromDate", &range[0]),
            ("toDate", &range[1]),
            ("includeTime", "from"),
            ("sort", "ASC"),
        ]);
        let body = self.send(request).await?;
        let endpoints: Vec<BTreeMap<String, Series>> =
            serde_json::from_slice(&body).context("epts answered with an unknown form of time series")?;
        Ok(endpoints.into_iter().find_map(|mut endpoint| endpoint.remove(endpoint_id)).unwrap_or_default())
    }

    /// Invokes a command and waits for its end; gives back the status and the body, null when there is none.
    pub(crate) async fn invoke(&self, path: &str, within: Duration, payload: &Value) -> Result<(u16, Value)> {
        let request = self
            .http
            .post(self.url(path))
            .header("x-iamcore-api-key", &self.api_key)
            .query(&[("awaitTimeout", within.as_secs())])
            .json(payload);
        let response = request.send().await?;
        let status = response.status().as_u16();
        let body = response.bytes().await?;
        Ok((status, serde_json::from_slice(&body).unwrap_or_default()))
    }

    /// How many commands of an application were executed.
    pub(crate) async fn count_executed(&self, application: &str) -> Result<u64> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Page {
            total_elements: u64,
        }
        let path = self.url(&format!("/cex/api/v1/endpoints/commands/{application}"));
        let request = self.http.get(path).query(&[("status", "EXECUTED"), ("size", "1")]);
        let body = self.send(request).await?;
        let page: Page =
            serde_json::from_slice(&body).context("cex answered with an unknown form of history")?;
        Ok(page.total_elements)
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T> {
        let body = self.send(self.http.post(self.url(path)).json(body)).await?;
        serde_json::from_slice(&body).with_context(|| format!("POST {path} answered with an unknown body"))
    }

    async fn put(&self, path: &str, body: &Value) -> Result<()> {
        self.send(self.http.put(self.url(path)).json(body)).await?;
        Ok(())
    }

    /// What is gone already is as good as deleted: the first answer may have been lost.
    async fn delete(&self, path: &str) -> Result<()> {
        match self.send(self.http.delete(self.url(path))).await {
            Err(error) if error.downcast_ref::<Unexpected>().is_some_and(|it| it.status == 404) => Ok(()),
            other => other.map(drop),
        }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// Sends a request, again while the platform is on its way up, and gives back the body of a success.
    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Vec<u8>> {
        let request = request.header("x-iamcore-api-key", &self.api_key).build()?;
        let what = format!("{} {}", request.method(), request.url().path());
        for attempt in 1.. {
            let Some(copy) = request.try_clone() else { bail!("{what} cannot be repeated") };
            let failure = match self.http.execute(copy).await {
                Ok(response) if response.status().is_success() => {
                    return Ok(response.bytes().await?.to_vec());
                }
                Ok(response) => {
                    let status = response.status().as_u16();
                    let text = response.text().await.unwrap_or_default();
                    let unexpected = anyhow::Error::new(Unexpected { what: what.clone(), status, text });
                    if status != 503 {
                        return Err(unexpected);
                    }
                    unexpected
                }
                Err(error) => anyhow::Error::new(error).context(what.clone()),
            };
            if attempt == TRIES {
                return Err(failure);
            }
            tokio::time::sleep(TRY_EVERY).await;
        }
        bail!("{what} was not tried")
    }
}
