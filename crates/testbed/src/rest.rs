//! Calls of REST interfaces.

use std::net::SocketAddr;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::Value;

/// The REST interfaces of a process, called with one API key.
#[derive(Debug, Clone)]
pub struct Rest {
    client: Client,
    address: SocketAddr,
    api_key: &'static str,
}

/// The answer to a call.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body as JSON; `null` when there is none.
    pub body: Value,
    /// The header `Location`.
    pub location: Option<String>,
    /// The header `ETag`, as it was sent.
    pub etag: Option<String>,
    /// All headers.
    pub headers: HeaderMap,
}

impl Answer {
    /// The body, if the status is the expected one.
    ///
    /// # Panics
    /// When it is another.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        self.body
    }

    /// The message of an error, if the status is the expected one.
    ///
    /// # Panics
    /// When it is another, or the body is not `{"message": "..."}`.
    #[track_caller]
    pub fn refused(self, status: u16) -> String {
        let body = self.expect(status);
        let message = body["message"].as_str().unwrap_or_else(|| panic!("the body holds no message: {body}"));
        assert_eq!(body.as_object().map(serde_json::Map::len), Some(1), "{body}");
        message.to_owned()
    }
}

impl Rest {
    pub(crate) fn new(address: SocketAddr, api_key: &'static str) -> Self {
        Self { client: Client::new(), address, api_key }
    }

    /// A `GET`.
    pub async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, None).await
    }

    /// A `POST` with a JSON body.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.call(Method::POST, path, Some(body)).await
    }

    /// A `PUT` with a JSON body.
    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.call(Method::PUT, path, Some(body)).await
    }

    /// A `PATCH` with a JSON body.
    pub async fn patch(&self, path: &str, body: &Value) -> Answer {
        self.call(Method::PATCH, path, Some(body)).await
    }

    /// A `DELETE`.
    pub async fn delete(&self, path: &str) -> Answer {
        self.call(Method::DELETE, path, None).await
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Answer {
        self.call_with(method, path, &[], body).await
    }

    /// Any call, with headers. They are set after those of a JSON body, so that another `Content-Type` wins.
    pub async fn call_with(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, &str)],
        body: Option<&Value>,
    ) -> Answer {
        let call = format!("{method} {path}");
        let mut request = self.request(method, path).timeout(crate::PATIENCE);
        if let Some(body) = body {
            request = request.json(body);
        }
        request = request.headers(these(headers));
        let response = request.send().await.unwrap_or_else(|error| panic!("{call}: {error}"));
        let status = response.status().as_u16();
        let header =
            |name| response.headers().get(name).map(|value: &HeaderValue| value.to_str().unwrap().to_owned());
        let (location, etag) = (header("location"), header("etag"));
        let headers = response.headers().clone();
        let text = response.text().await.unwrap_or_else(|error| panic!("{call}: {error}"));
        let body = if text.is_empty() {
            Value::Null
        } else {
            serde_json::from_str(&text)
                .unwrap_or_else(|error| panic!("{call} answered {status} {text}: {error}"))
        };
        Answer { status, body, location, etag, headers }
    }

    /// Calls what answers without an end; the caller reads it.
    pub async fn open(&self, path: &str, headers: &[(&'static str, &str)]) -> Response {
        let request = self.request(Method::GET, path).headers(these(headers));
        let response = tokio::time::timeout(crate::PATIENCE, request.send()).await;
        let response = response.unwrap_or_else(|_| panic!("GET {path} does not answer"));
        response.unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("http://{}{path}", self.address);
        self.client.request(method, url).header("x-iamcore-api-key", self.api_key)
    }
}

fn these(headers: &[(&'static str, &str)]) -> HeaderMap {
    let header = |(name, value): &(&'static str, &str)| {
        (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a header's value"))
    };
    headers.iter().map(header).collect()
}
