//! The HTTP binding.

use futures::StreamExt as _;
use ism::Record as _;
use ism::esp::{CLIENT_DATA, ClientData};
use reqwest::{Client, Method, Response};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::world::{Gate, World};

pub(crate) async fn post(gate: &Gate, path: &str, body: impl Into<reqwest::Body>) -> Response {
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

/// A request that prefers to wait.
fn waiting(gate: &Gate, path: &str, wait: &'static str) -> tokio::task::JoinHandle<Response> {
    let url = format!("http://{}{path}", gate.platform.http_address());
    let request = Client::new().post(url).header("Prefer", wait).body("waits");
    tokio::spawn(async move { request.send().await.unwrap() })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_prefers_to_wait_is_waited_with() {
    let world = World::new().await;
    let gate = world.gate(&[("kpc.deadline_ms", "1000"), ("kpc.prefer_wait_max_s", "20")]).await;
    let mut messages = world.listen(CLIENT_DATA.at("echo")).await;
    let response = waiting(&gate, "/kp1/demo-v1/echo/t1/gate", "wait=3600");
    let message = messages.next().await.unwrap();
    assert_eq!(message.headers.unwrap().get("Prefer").unwrap().as_str(), "wait=20");
    let timeout = ClientData::decode(&message.payload).unwrap().timeout;
    assert!((20_000..=21_000).contains(&timeout), "{timeout}");
    // When this has had its time, the other one has had as much.
    let silent = post(&gate, "/kp1/demo-v1/echo/t1/silent", "x").await;
    assert_eq!(silent.status(), 504);
    assert!(messages.next().await.unwrap().headers.is_none_or(|headers| headers.get("Prefer").is_none()));
    world.extension.gate.notify_one();
    let response = response.await.unwrap();
    assert_eq!(
        (response.status().as_u16(), response.headers()["preference-applied"].to_str().unwrap()),
        (200, "wait=20")
    );
    // That nobody is there to ask is found out sooner.
    let dead = waiting(&gate, "/kp1/demo-v1/dead/t1/json", "wait=3600").await.unwrap();
    assert_eq!(dead.status(), 503);
    assert!(!dead.headers().contains_key("preference-applied"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_is_waited_with_so_often_and_no_more() {
    let world = World::new().await;
    let settings = [("kpc.limits.waits_per_endpoint", "1"), ("kpc.deadline_ms", "1000")];
    let gate = world.gate(&settings).await;
    let mut messages = world.listen(CLIENT_DATA.at("echo")).await;
    let mut asked = async |path, body: &str| {
        let url = format!("http://{}{path}", gate.platform.http_address());
        let request = Client::new().post(url).header("Prefer", "wait=30").body(body.to_owned());
        let response = tokio::spawn(async move { request.send().await.unwrap() });
        let message = messages.next().await.unwrap();
        (message.headers.is_some_and(|headers| headers.get("Prefer").is_some()), response)
    };
    // Too much to be kept while somebody waits.
    let (waits, response) = asked("/kp1/demo-v1/echo/t1/json", &"x".repeat(4_097)).await;
    assert!(!waits && !response.await.unwrap().headers().contains_key("preference-applied"));
    let (waits, first) = asked("/kp1/demo-v1/echo/t1/gate", "x").await;
    assert!(waits);
    let (waits, response) = asked("/kp1/demo-v1/echo/t1/json", "x").await;
    assert!(!waits && !response.await.unwrap().headers().contains_key("preference-applied"));
    let (waits, response) = asked("/kp1/demo-v1/echo/t2/json", "x").await;
    assert!(waits && response.await.unwrap().headers().contains_key("preference-applied"));
    world.extension.gate.notify_one();
    assert_eq!(first.await.unwrap().headers()["preference-applied"], "wait=30");
    let (waits, _) = asked("/kp1/demo-v1/echo/t1/json", "x").await;
    assert!(waits);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_stops_does_not_wait_with_its_clients() {
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    let response = waiting(&gate, "/kp1/demo-v1/echo/t1/silent", "wait=60");
    world.extension.has("waits").await;
    gate.platform.stop().await.unwrap();
    assert_eq!(response.await.unwrap().status(), 504);
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
        ("/kp1", "x", 404),
        ("/kp1/", "x", 404),
        ("/kp1/demo-v1/echo/t1/json", large.as_str(), 413),
        ("/kp1/demo-v1/echo/t1/garbled", "x", 500),
        ("/kp1/demo-v1/echo/t1/answer/507", "x", 507),
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

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_writes_all_before_it_reads_gets_its_answer() {
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    // More than the kernel's buffers take: somebody must read it.
    let body = vec![b'x'; 12_000_000];
    let cases = [
        ("POST", "/kp1/demo-v1/echo/t1/json", 413),
        ("POST", "/kp1/demo-v1/echo/wrong/json", 401),
        ("POST", "/kp1/closed-v1/echo/t1/json", 403),
        ("POST", "/kp1/demo-v1/nothing/t1/json", 404),
        ("PUT", "/kp1/demo-v1/echo/t1/json", 405),
    ];
    for (method, path, status) in cases {
        for framing in [format!("content-length: {}", body.len()), "transfer-encoding: chunked".to_owned()] {
            let mut stream = TcpStream::connect(gate.platform.http_address()).await.unwrap();
            let chunked = framing.contains("chunked");
            let head =
                format!("{method} {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n{framing}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            if chunked {
                stream.write_all(format!("{:x}\r\n", body.len()).as_bytes()).await.unwrap();
            }
            stream.write_all(&body).await.unwrap();
            if chunked {
                stream.write_all(b"\r\n0\r\n\r\n").await.unwrap();
            }
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path} {framing}: {answer}");
            assert!(answer.contains(&format!(r#"{{"statusCode":{status},"#)), "{path} {framing}: {answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_asks_before_it_sends_is_refused_without_sending() {
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    let mut stream = TcpStream::connect(gate.platform.http_address()).await.unwrap();
    let head = "POST /kp1/demo-v1/echo/t1/json HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\n\
                content-length: 12000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains("(kpc.limits.payload_bytes)"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_over_the_extensions_limit_is_refused_with_the_limits_name() {
    let world = World::new().await;
    let registration = serde_json::json!({
        "name": "echo", "version": "2", "protocol": "esp", "endpointAware": true, "maxPayloadBytes": 10,
    });
    let bucket = extension::bucket(&world.client).await.unwrap();
    bucket.put("echo", registration.to_string().into()).await.unwrap();
    let gate = world.gate(&[]).await;
    assert_eq!(post(&gate, "/kp1/demo-v1/echo/t1/json", "x".repeat(10)).await.status(), 200);
    let response = post(&gate, "/kp1/demo-v1/echo/t1/json", "x".repeat(11)).await;
    assert_eq!(response.status(), 413);
    let body: serde_json::Value = response.json().await.unwrap();
    assert!(body["reasonPhrase"].as_str().unwrap().contains("(the extension's maxPayloadBytes)"), "{body}");
}
