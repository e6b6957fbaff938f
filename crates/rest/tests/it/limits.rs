//! The limits of the edge.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::site::{failed, failure, site_with};

const WITHIN: Duration = Duration::from_secs(20);
const WAIT: &str = "/berths/api/v1/wait";

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let site = site_with(|config| config.body_bytes_max = 64).await;
    let long =
        site.post("/berths/api/v1/berths").json(&serde_json::json!({"name": "x".repeat(64), "metres": 1}));
    let (status, message) = failure(long).await;
    assert_eq!(status, 413);
    assert!(message.contains("64 bytes (http.body_bytes_max)"), "{message}");
}

#[tokio::test]
async fn a_request_over_the_time_is_cut_off() {
    let site = site_with(|config| config.request_timeout_ms = 50).await;
    let (status, message) = failure(site.get(WAIT)).await;
    assert_eq!(status, 504);
    assert!(message.contains("50 ms (http.request_timeout_ms)"), "{message}");
}

#[tokio::test]
async fn a_route_may_have_a_time_limit_of_its_own() {
    let site = site_with(|config| config.request_timeout_ms = 50).await;
    let (status, message) = failure(site.get("/berths/api/v1/wait/second")).await;
    assert_eq!(status, 504);
    assert!(message.contains("1 s (x-time-limit-s of this route)"), "{message}");
    let document = site.stranger_get("/berths/api/v1/openapi.json").send().await.unwrap();
    let document: serde_json::Value = document.json().await.unwrap();
    assert_eq!(document["paths"]["/berths/api/v1/wait/long"]["get"]["x-time-limit-s"], 60);
    assert!(document["paths"][WAIT]["get"].get("x-time-limit-s").is_none());
}

#[tokio::test]
async fn requests_that_wait_on_purpose_take_no_place_of_the_others() {
    const LONG: &str = "/berths/api/v1/wait/long";
    let site = site_with(|config| {
        config.concurrent_requests_max = 1;
        config.long_requests_max = 1;
    })
    .await;
    let first = tokio::spawn(site.get(LONG).send());
    site.begun.notified().await;
    assert_eq!(site.get("/berths/api/v1/berths").send().await.unwrap().status(), 200);
    let (status, message) = failure(site.get(LONG)).await;
    assert_eq!(status, 503);
    assert!(message.contains("http.long_requests_max"), "{message}");
    // They do not hold up the end of the process.
    site.stopping.cancel();
    assert_eq!(first.await.unwrap().unwrap().text().await.unwrap(), "stopping");
    timeout(WITHIN, site.served).await.unwrap().unwrap();
}

#[tokio::test]
async fn requests_over_the_number_are_refused_at_once() {
    let site = site_with(|config| config.concurrent_requests_max = 1).await;
    let first = tokio::spawn(site.get(WAIT).send());
    site.begun.notified().await;
    let response = site.get(WAIT).send().await.unwrap();
    assert_eq!(response.headers()["retry-after"], "1");
    let (status, message) = failed(response).await;
    assert_eq!(status, 503);
    assert!(message.contains("http.concurrent_requests_max"), "{message}");

    site.go_on.notify_one();
    assert_eq!(first.await.unwrap().unwrap().status(), 200);
    assert_eq!(site.get("/berths/api/v1/berths").send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn who_has_no_credentials_holds_up_nobody_who_has() {
    let site = site_with(|config| config.concurrent_requests_max = 4).await;
    let first = tokio::spawn(site.stranger_get("/berths/api/v1/open/wait").send());
    site.begun.notified().await;
    let (status, message) = failure(site.stranger_get("/berths/api/v1/open")).await;
    assert_eq!(status, 503);
    assert!(message.contains("a quarter of http.concurrent_requests_max"), "{message}");
    assert_eq!(site.get("/berths/api/v1/berths").send().await.unwrap().status(), 200);
    site.go_on.notify_one();
    assert_eq!(first.await.unwrap().unwrap().status(), 200);
    assert_eq!(site.stranger_get("/berths/api/v1/open").send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn connections_over_the_number_are_refused_in_words() {
    let site = site_with(|config| config.connections_max = 1).await;
    // The answer shows that the first connection is counted.
    let mut first = TcpStream::connect(site.address).await.unwrap();
    first.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    first.read_u8().await.unwrap();
    let mut second = TcpStream::connect(site.address).await.unwrap();
    let mut answer = String::new();
    timeout(WITHIN, second.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("http.connections_max"), "{answer}");
}

#[tokio::test]
async fn connections_of_one_address_over_the_number_are_refused_in_words() {
    let site = site_with(|config| config.connections_per_address_max = 1).await;
    let from = async |last: u8| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, last], 0).into()).unwrap();
        socket.connect(site.address).await.unwrap()
    };
    let is_served = async |connection: &mut TcpStream| {
        connection.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut begin = [0; 12];
        connection.read_exact(&mut begin).await.unwrap();
        assert_eq!(&begin, b"HTTP/1.1 404");
    };
    let mut first = from(1).await;
    is_served(&mut first).await;
    let mut second = from(1).await;
    let mut answer = String::new();
    timeout(WITHIN, second.read_to_string(&mut answer)).await.unwrap().unwrap();
    let words = "1 connections of your address (http.connections_per_address_max) are open";
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains(words), "{answer}");
    is_served(&mut from(2).await).await;
}

#[tokio::test]
async fn a_connection_that_does_not_send_a_whole_head_in_time_is_closed() {
    let site = site_with(|config| config.idle_timeout_ms = 50).await;
    for start in ["", "GET /berths"] {
        let mut connection = TcpStream::connect(site.address).await.unwrap();
        connection.write_all(start.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        timeout(WITHIN, connection.read_to_end(&mut answer)).await.unwrap().unwrap();
    }
}
