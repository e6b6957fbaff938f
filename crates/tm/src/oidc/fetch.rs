//! Fetches JSON documents from issuers, over TLS that trusts what the machine trusts.
//!
//! A small client of its own: it follows no redirect, so that an issuer's keys come from where the configuration
//! says, and reads no more than it must.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How long one document may take.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest document that is read.
const DOCUMENT_BYTES_MAX: usize = 512 * 1024;

/// Fetches documents.
pub(super) struct Fetcher {
    tls: Option<TlsConnector>,
}

/// Why there is no document.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("the URL is not one")]
    Url,
    #[error("no answer within {FETCH_TIMEOUT:?}")]
    Timeout,
    #[error("cannot connect")]
    Connect(#[source] std::io::Error),
    #[error("the connection failed")]
    Connection(#[source] hyper::Error),
    #[error("answered {0}")]
    Status(StatusCode),
    #[error("the document is longer than {DOCUMENT_BYTES_MAX} bytes or ends too early")]
    Body,
}

impl Fetcher {
    /// `https`: whether TLS is needed at all, and with it the certificates that the machine trusts.
    pub(super) fn new(https: bool) -> anyhow::Result<Self> {
        let tls = if https { Some(TlsConnector::from(Arc::new(client_config()?))) } else { None };
        Ok(Self { tls })
    }

    /// The document at a URL.
    pub(super) async fn get(&self, url: &str) -> Result<Bytes, FetchError> {
        let url: Uri = url.parse().map_err(|_| FetchError::Url)?;
        tokio::time::timeout(FETCH_TIMEOUT, self.fetch(&url)).await.map_err(|_| FetchError::Timeout)?
    }

    async fn fetch(&self, url: &Uri) -> Result<Bytes, FetchError> {
        let host = url.host().ok_or(FetchError::Url)?;
        // In a URL an IPv6 address stands in brackets.
        let address = host.trim_start_matches('[').trim_end_matches(']');
        let is_tls = url.scheme_str() == Some("https");
        let port = url.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let stream = TcpStream::connect((address, port)).await.map_err(FetchError::Connect)?;
        if !is_tls {
            return exchange(stream, url).await;
        }
        let tls = self.tls.as_ref().ok_or(FetchError::Url)?;
        let name = ServerName::try_from(address.to_owned()).map_err(|_| FetchError::Url)?;
        exchange(tls.connect(name, stream).await.map_err(FetchError::Connect)?, url).await
    }
}

fn client_config() -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "some certificates that this machine trusts cannot be read");
    }
    roots.add_parsable_certificates(found.certs);
    anyhow::ensure!(
        !roots.is_empty(),
        "this machine trusts no certificates, so that no issuer of tm.oidc can be reached: install ca-certificates, \
         or name a file in SSL_CERT_FILE"
    );
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

async fn exchange<S>(stream: S, url: &Uri) -> Result<Bytes, FetchError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(FetchError::Connection)?;
    let authority = url.authority().ok_or(FetchError::Url)?.as_str();
    let target = url.path_and_query().map_or("/", |target| target.as_str());
    let request = Request::get(target)
        .header(header::HOST, authority)
        .header(header::ACCEPT, "application/json")
        .body(Empty::<Bytes>::new())
        .map_err(|_| FetchError::Url)?;
    let reading = async {
        let response = sender.send_request(request).await.map_err(FetchError::Connection)?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        let body = Limited::new(response.into_body(), DOCUMENT_BYTES_MAX).collect().await;
        body.map(http_body_util::Collected::to_bytes).map_err(|_| FetchError::Body)
    };
    tokio::pin!(reading, connection);
    // The connection may end first, when the server closes it after the answer: the answer is still read.
    tokio::select! {
        read = &mut reading => read,
        ended = &mut connection => match ended {
            Ok(()) => reading.await,
            Err(error) => Err(FetchError::Connection(error)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::ServerConfig;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    /// Answers every connection with the same bytes, over TLS with a certificate of its own for `localhost`; its port
    /// and its certificate.
    async fn server(answer: String) -> (u16, CertificateDer<'static>) {
        let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let certificate = certified.cert.der().clone();
        let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("localhost:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let _ = stream.read(&mut [0; 1_024]).await;
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        });
        (port, certificate)
    }

    async fn get(answer: &str, trusted: bool) -> Result<Bytes, FetchError> {
        let (port, certificate) = server(answer.to_owned()).await;
        let mut roots = RootCertStore::empty();
        if trusted {
            roots.add(certificate).unwrap();
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let fetcher = Fetcher { tls: Some(TlsConnector::from(Arc::new(config))) };
        fetcher.get(&format!("https://localhost:{port}/keys?x=1")).await
    }

    #[tokio::test]
    async fn a_document_comes_from_whom_the_machine_trusts() {
        let answer = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}";
        assert_eq!(get(answer, true).await.unwrap(), "{}");
        assert!(matches!(get(answer, false).await, Err(FetchError::Connect(_))));
        let fetcher = Fetcher { tls: None };
        assert!(matches!(fetcher.get("no URL").await, Err(FetchError::Url)));
    }

    #[tokio::test]
    async fn nothing_but_the_document_itself_is_taken() {
        let redirect =
            "HTTP/1.1 302 Found\r\nlocation: https://elsewhere.example/\r\ncontent-length: 0\r\n\r\n";
        assert!(matches!(get(redirect, true).await, Err(FetchError::Status(StatusCode::FOUND))));
        let long = " ".repeat(DOCUMENT_BYTES_MAX + 1);
        let long = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{long}", long.len());
        assert!(matches!(get(&long, true).await, Err(FetchError::Body)));
        let cut = "HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n{}";
        assert!(matches!(get(cut, true).await, Err(FetchError::Body | FetchError::Connection(_))));
    }
}
