//! The end of the edge.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::site::site;

const WITHIN: Duration = Duration::from_secs(20);

#[tokio::test]
async fn running_requests_finish_and_idle_connections_end() {
    let mut site = site().await;
    let running = tokio::spawn(site.get("/berths/api/v1/wait").send());
    site.begun.notified().await;
    let mut idle = TcpStream::connect(site.address).await.unwrap();
    idle.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    idle.read_u8().await.unwrap();

    site.stopping.cancel();
    let mut rest = Vec::new();
    timeout(WITHIN, idle.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert!(!site.served.is_finished(), "a request is still running");

    site.go_on.notify_one();
    let response = timeout(WITHIN, running).await.unwrap().unwrap().unwrap();
    assert_eq!(response.text().await.unwrap(), "done");
    timeout(WITHIN, &mut site.served).await.unwrap().unwrap();
    assert!(TcpStream::connect(site.address).await.is_err());
}

#[tokio::test]
async fn a_taken_address_is_told() {
    let site = site().await;
    let config = rest::Config { listen: site.address, ..rest::Config::default() };
    let error = rest::Edge::bind(&config).await.unwrap_err();
    assert!(error.to_string().contains("http.listen"), "{error}");
}
