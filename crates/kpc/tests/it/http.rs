//! The HTTP binding.

use reqwest::{Client, Method, Response};

use crate::world::{Gate, World};

async fn post(gate: &Gate, path: &str, body: impl Into<reqwest::Body>) -> Response {
    let url = format!("http://{}{path}", gate.platform.http_address());
    Client::new().post(url).body(body).send().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn success_is_200_with_the_extensions_payload() {
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    let response = post(&gate, "/kp1/demo-v1/echo/t1/json", r#"{"a":1}"#).await;
    assert_eq!(
        (response.status().as_u16(), response.headers()["content-type"].to_str().unwrap()),
        (200, "application/json")
    );
    assert_eq!(response.text().await.unwrap(), r#"{"a":1}"#);
    let response = post(&gate, "/kp1/demo-v1/echo/t1/empty", "x").await;
    assert_eq!((response.status().as_u16(), response.text().await.unwrap().as_str()), (200, ""));
    assert_eq!(post(&gate, "/kp1/demo-v1/echo/t1/unchanged", "").await.status(), 304);
    let data = world.extension.has("x").await;
    assert_eq!(
        (data.endpoint_id.as_deref(), data.resource_path.as_str(), data.request_id),
        (Some("e1"), "/empty", None)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_has_its_status_and_the_body_of_1kp() {
    let world = World::new().await;
    let gate = world.gate(&[("kpc.deadline_ms", "600"), ("kpc.limits.payload_bytes", "1000")]).await;
    let large = "x".repeat(1_001);
    let cases = [
        ("/kp1/demo-v1/echo/t1/refuse", "x", 400),
        ("/kp1/demo-v1/echo/wrong/json", "x", 401),
        ("/kp1/demo-v1/echo/suspended/json", "x", 403),
        ("/kp1/closed-v1/echo/t1/json", "x", 403),
        ("/kp1/nothing-v1/echo/t1/json", "x", 404),
        ("/kp1/demo-v1/nothing/t1/json", "x", 404),
        ("/kp1/demo-v1/echo", "x", 401),
        ("/kp1/demo-v1/echo/t1/json", large.as_str(), 413),
        ("/kp1/demo-v1/dead/t1/json", "x", 503),
        ("/kp1/demo-v1/echo/t1/down", "x", 503),
        ("/kp1/demo-v1/echo/t1/silent", "x", 504),
    ];
    for (path, body, status) in cases {
        let response = post(&gate, path, body.to_owned()).await;
        assert_eq!(response.status().as_u16(), status, "{path}");
        assert_eq!(response.headers().contains_key("retry-after"), status == 503, "{path}");
        let body: serde_json::Value = response.json().await.unwrap();
        assert_eq!(body["statusCode"], status, "{path}: {body}");
        assert!(!body["reasonPhrase"].as_str().unwrap().is_empty());
    }
    // A message that may have been taken is not sent twice behind the device's back.
    let silent =
        world.extension.received.lock().await.iter().filter(|data| data.resource_path == "/silent").count();
    assert_eq!(silent, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_post_is_answered() {
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    let url = format!("http://{}/kp1/demo-v1/echo/t1/json", gate.platform.http_address());
    for method in [Method::GET, Method::PUT, Method::DELETE] {
        let response = Client::new().request(method, &url).send().await.unwrap();
        assert_eq!(response.status(), 405);
    }
}
