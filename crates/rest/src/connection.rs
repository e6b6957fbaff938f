//! One HTTP connection.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::response::Response;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::Mounts;
use crate::admission::Full;
use crate::tls::Handshake;

/// Marks a request that came over TLS.
#[derive(Debug, Clone, Copy)]
pub struct OverTls;

/// Serves a socket, after the handshake if it is one for HTTPS.
pub(crate) async fn begin(
    stream: TcpStream,
    handshake: Option<Handshake>,
    peer: SocketAddr,
    mounts: Mounts,
    idle_timeout: Duration,
    stopping: CancellationToken,
) {
    // Answers are written at once and whole: waiting for more would only delay them.
    let _ = stream.set_nodelay(true);
    let Some(handshake) = handshake else {
        return serve(stream, peer, None, mounts, idle_timeout, stopping).await;
    };
    let shaken = tokio::select! {
        shaken = handshake.shake(stream) => shaken,
        () = stopping.cancelled() => return,
    };
    match shaken {
        Ok(stream) => Box::pin(serve(stream, peer, Some(OverTls), mounts, idle_timeout, stopping)).await,
        Err(error) => tracing::debug!(%peer, %error, "a TLS handshake failed"),
    }
}

/// Serves requests until the client closes, waits too long, or `stopping` is cancelled and the running request has ended.
async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: SocketAddr,
    over_tls: Option<OverTls>,
    mounts: Mounts,
    idle_timeout: Duration,
    stopping: CancellationToken,
) {
    let policy = Arc::clone(mounts.policy());
    let _open = Open::new(&mounts);
    let service = service_fn(|request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
        over_tls.map(|mark| request.extensions_mut().insert(mark));
        request.extensions_mut().insert(Arc::clone(&policy));
        // In this order: once all is mounted, the router taken after that is whole.
        request.extensions_mut().insert(policy.completeness());
        let answer = mounts.current().oneshot(request);
        async move { Ok::<Response, Infallible>(answer.await.unwrap_or_else(|never| match never {})) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(idle_timeout);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service).with_upgrades());
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, error = %error, "an HTTP connection was cut");
    }
}

/// Counts a connection while it lives, however it ends.
struct Open<'m>(&'m Mounts);

impl<'m> Open<'m> {
    fn new(mounts: &'m Mounts) -> Self {
        mounts.policy().metrics.connected();
        Self(mounts)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.policy().metrics.disconnected();
    }
}

/// Tells a client that there are too many connections, if it takes it without delay.
pub(crate) fn refuse(stream: &TcpStream, full: Full) {
    let body = format!(r#"{{"message":"{full}"}}"#);
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: {}\r\nretry-after: 1\r\n\
         connection: close\r\n\r\n{body}",
        body.len()
    );
    let _ = stream.try_write(answer.as_bytes());
}

/// Waits a little when the process is out of files, so that a loop of failures does not take a core.
pub(crate) async fn accept_failed(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
        return;
    }
    tracing::error!(%error, "no HTTP connection can be accepted: raise the limit of open files (ulimit -n)");
    tokio::time::sleep(Duration::from_millis(500)).await;
}
