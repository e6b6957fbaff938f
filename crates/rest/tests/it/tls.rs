//! HTTPS.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rest::{Config, Edge};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

const WITHIN: Duration = Duration::from_secs(20);

struct Served {
    http: SocketAddr,
    https: SocketAddr,
    stopping: CancellationToken,
    served: JoinHandle<()>,
    roots: Arc<RootCertStore>,
    _folder: tempfile::TempDir,
}

/// An edge with HTTPS that greets at `/hello`.
async fn edge(change: impl FnOnce(&mut Config)) -> Served {
    let folder = tempfile::tempdir().unwrap();
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate_file, key_file) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
    std::fs::write(&certificate_file, cert.pem()).unwrap();
    std::fs::write(&key_file, signing_key.serialize_pem()).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = Config { listen: any, ..Config::default() };
    config.tls.listen = any;
    (config.tls.certificate_file, config.tls.key_file) = (Some(certificate_file), Some(key_file));
    change(&mut config);
    let edge = Edge::bind(&config).await.unwrap();
    edge.mounts().add(Router::new().route("/hello", get(|| async { "hello" })));
    edge.mounts().complete();
    let (http, https, stopping) = (edge.local_addr(), edge.tls_addr().unwrap(), CancellationToken::new());
    let served = tokio::spawn(edge.serve(stopping.clone()));
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    Served { http, https, stopping, served, roots: Arc::new(roots), _folder: folder }
}

impl Served {
    fn connector(&self, version: &'static SupportedProtocolVersion, alpn: &[&[u8]]) -> TlsConnector {
        let builder = ClientConfig::builder_with_provider(::tls::provider());
        let builder = builder.with_protocol_versions(&[version]).unwrap();
        let mut config = builder.with_root_certificates(self.roots.clone()).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        TlsConnector::from(Arc::new(config))
    }
}

async fn hello(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> String {
    stream.write_all(b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\nhello") {
        answer.push(timeout(WITHIN, stream.read_u8()).await.unwrap().unwrap());
    }
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn the_same_is_served_over_http_and_https() {
    let site = edge(|_| {}).await;
    let plain = hello(&mut TcpStream::connect(site.http).await.unwrap()).await;
    assert!(plain.starts_with("HTTP/1.1 200 OK"), "{plain}");
    for version in [&TLS12, &TLS13] {
        for alpn in [&[][..], &[b"h2".as_slice(), b"http/1.1"]] {
            let stream = TcpStream::connect(site.https).await.unwrap();
            let connector = site.connector(version, alpn);
            let mut stream = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
            assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
            assert_eq!(stream.get_ref().1.alpn_protocol().is_some(), !alpn.is_empty());
            // The connection stays for the next request.
            for _ in 0..2 {
                assert!(hello(&mut stream).await.starts_with("HTTP/1.1 200 OK"));
            }
        }
    }
    // Plain HTTP has no place here.
    let mut stream = TcpStream::connect(site.https).await.unwrap();
    stream.write_all(b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(WITHIN, stream.read_to_end(&mut answer)).await.unwrap();
    assert!(!String::from_utf8_lossy(&answer).contains("HTTP"), "{answer:?}");
}

#[tokio::test]
async fn a_handshake_that_does_not_come_is_not_waited_for_and_takes_a_place() {
    let site = edge(|config| {
        config.connections_per_address_max = 2;
        config.tls.handshake_timeout_ms = 500;
    })
    .await;
    let connector = site.connector(&TLS13, &[]);
    let dial = async || {
        let stream = TcpStream::connect(site.https).await.unwrap();
        connector.connect("localhost".try_into().unwrap(), stream).await
    };
    let mut first = dial().await.unwrap();
    hello(&mut first).await;
    let mut silent = TcpStream::connect(site.https).await.unwrap();
    assert!(timeout(WITHIN, silent.read_u8()).await.unwrap().is_err());
    let mut second = dial().await.unwrap();
    hello(&mut second).await;
    // Both listeners count together.
    assert!(dial().await.is_err());
    let mut refused = TcpStream::connect(site.http).await.unwrap();
    let mut answer = String::new();
    timeout(WITHIN, refused.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.contains("connections_per_address_max"), "{answer}");
}

#[tokio::test]
async fn stopping_ends_handshakes_and_idle_connections() {
    let site = edge(|_| {}).await;
    let _silent = TcpStream::connect(site.https).await.unwrap();
    let stream = TcpStream::connect(site.https).await.unwrap();
    let connector = site.connector(&TLS13, &[]);
    let mut idle = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
    hello(&mut idle).await;
    site.stopping.cancel();
    let mut rest = Vec::new();
    timeout(WITHIN, idle.read_to_end(&mut rest)).await.unwrap().unwrap();
    timeout(WITHIN, site.served).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_is_told() {
    let mut config = Config { listen: ([127, 0, 0, 1], 0).into(), ..Config::default() };
    let missing = std::path::Path::new("/nowhere/tls.crt");
    (config.tls.certificate_file, config.tls.key_file) = (Some(missing.into()), Some(missing.into()));
    let error = Edge::bind(&config).await.unwrap_err().to_string();
    assert!(error.contains("http.tls") && error.contains("/nowhere/tls.crt"), "{error}");
}
