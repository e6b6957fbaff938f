//! MQTT over WebSocket where HTTPS is served, for clients that come to the single TLS port.
//!
//! Only after the TLS handshake and the request is it known that a client of HTTPS wants a WebSocket, and by then its
//! connection belongs to the HTTP listener and cannot be given away. So what is said on it is carried to a worker thread of MQTT
//! and back through a pair of local sockets. The ports for WebSocket alone need no such thing, and are cheaper.

use std::net::SocketAddr;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{AppendHeaders, IntoResponse as _, Response};
use axum::routing::any;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rest::OverTls;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::gateway::Gateway;
use crate::mqtt::{self, Answer, Handed, Handover, Held, Socket};

/// How many bytes of one connection are on their way in each direction.
const CARRIED_BYTES: usize = 8 * 1_024;

struct Door {
    gateway: Arc<Gateway>,
    handover: Handover,
    waiting: Arc<Semaphore>,
}

/// The routes. They serve requests over TLS only: a port without it is chosen, and closed, by itself.
pub(crate) fn router(gateway: Arc<Gateway>, handover: Handover, waiting: Arc<Semaphore>) -> Router {
    let door = Arc::new(Door { gateway, handover, waiting });
    Router::new().route("/mqtt", any(open)).route("/ws", any(open)).with_state(door)
}

async fn open(State(door): State<Arc<Door>>, request: Request) -> Response {
    let (mut parts, _) = request.into_parts();
    let (over_tls, peer) =
        (parts.extensions.get::<OverTls>(), parts.extensions.get::<ConnectInfo<SocketAddr>>());
    let (Some(OverTls), Some(ConnectInfo(address))) = (over_tls, peer.copied()) else {
        let message = "MQTT over WebSocket is served here over TLS only; without, it has a port of its own\n";
        return (StatusCode::NOT_FOUND, message).into_response();
    };
    let (headers, upgrade) = match (mqtt::opening(&parts), parts.extensions.remove::<OnUpgrade>()) {
        (Answer::Accept(headers), Some(upgrade)) => (headers, upgrade),
        (Answer::Accept(_), None) => return StatusCode::UPGRADE_REQUIRED.into_response(),
        (Answer::Refuse { status, headers, reason }, _) => {
            door.gateway.metrics.refused_connection("websocket handshake");
            let status = StatusCode::from_u16(status.as_u16()).unwrap_or(StatusCode::BAD_REQUEST);
            let headers = AppendHeaders(headers.iter().copied());
            return (status, headers, format!("{reason}\n")).into_response();
        }
    };
    let place = door.gateway.enter_socket(address);
    let (Some(place), Ok(waiting)) = (place, door.waiting.clone().try_acquire_owned()) else {
        let message = "too many connections are beginning (kpc.limits.connecting_per_address, kpc.tls_port.waiting_max)\n";
        return (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1")], message).into_response();
    };
    let held = Held::new(place, Some(waiting));
    tokio::spawn(async move {
        if let Err(error) = door.carry(upgrade, address, held).await {
            tracing::debug!(%address, %error, "a WebSocket was cut");
        }
    });
    (StatusCode::SWITCHING_PROTOCOLS, AppendHeaders(headers)).into_response()
}

impl Door {
    /// Carries what is said between a client and a worker thread until one of them ends.
    async fn carry(&self, upgrade: OnUpgrade, address: SocketAddr, held: Held) -> anyhow::Result<()> {
        let mqtt = &self.gateway.config.mqtt;
        let answered = timeout(Duration::from_secs(mqtt.connect_timeout_s.into()), upgrade).await??;
        let (from_client, to_client) = tokio::io::split(TokioIo::new(answered));
        let (ours, theirs) = StdUnixStream::pair()?;
        ours.set_nonblocking(true)?;
        self.handover.give(Handed { socket: Socket::Frames(theirs), address, held }).await;
        let (from_worker, to_worker) = UnixStream::from_std(ours)?.into_split();
        tokio::select! {
            // The worker may leave a client waiting for as long as its messages are worked on.
            ended = pass(from_client, to_worker, Duration::MAX) => ended,
            ended = pass(from_worker, to_client, Duration::from_secs(mqtt.write_timeout_s.into())) => ended,
        }
    }
}

/// Passes bytes on until there are no more, or the receiver takes none for too long.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    patience: Duration,
) -> anyhow::Result<()> {
    let mut buffer = vec![0; CARRIED_BYTES];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return Ok(timeout(patience, to.shutdown()).await??);
        }
        let passing = async {
            to.write_all(&buffer[..count]).await?;
            to.flush().await
        };
        timeout(patience, passing).await??;
    }
}
