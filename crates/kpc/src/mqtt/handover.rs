//! Sockets that came in elsewhere and are served by the worker threads of MQTT.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use ntex::rt::{from_tcp_stream, from_unix_stream, spawn_detached};
use ntex::service::cfg::SharedCfg;
use tokio::sync::{Mutex, mpsc};

use super::arrival::{Held, Reception};

/// Sockets that wait for a worker thread; whoever brings more waits.
const WAITING_MAX: usize = 1_024;

/// A socket that nothing has been read from.
#[derive(Debug)]
pub(crate) struct Handed {
    pub(crate) socket: Socket,
    /// Where the client is, whatever the socket says.
    pub(crate) address: SocketAddr,
    pub(crate) held: Held,
}

/// What is said on a socket.
#[derive(Debug)]
pub(crate) enum Socket {
    /// A TLS handshake, and then MQTT.
    Tls(std::net::TcpStream),
    /// Frames of WebSocket, which came over TLS.
    Frames(std::os::unix::net::UnixStream),
}

/// The way to the worker threads. They take turns, because waiting for the lock is fair. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Handover {
    sender: mpsc::Sender<Handed>,
    receiver: Arc<Mutex<mpsc::Receiver<Handed>>>,
}

impl Handover {
    pub(super) fn new() -> Self {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        Self { sender, receiver: Arc::new(Mutex::new(receiver)) }
    }

    /// Gives a socket to the next worker thread; it is closed when there are none any more.
    pub(crate) async fn give(&self, handed: Handed) {
        // The receiver lives as long as this sender.
        drop(self.sender.send(handed).await);
    }

    /// Has this worker thread serve its share of the sockets.
    pub(super) fn receive(self, settings: SharedCfg, reception: Rc<Reception>) {
        spawn_detached(async move {
            loop {
                // Only one waits for the next socket at a time.
                let next = self.receiver.lock().await.recv().await;
                let Some(handed) = next else { return };
                serve(handed, settings.clone(), reception.clone());
            }
        });
    }
}

/// A task for each kind of socket, because a task takes as much memory as the longest way through it.
fn serve(handed: Handed, settings: SharedCfg, reception: Rc<Reception>) {
    let Handed { socket, address, held } = handed;
    let failed = match socket {
        Socket::Tls(stream) => from_tcp_stream(stream, settings)
            .map(|io| spawn_detached(async move { drop(reception.routed(io, address, held).await) }))
            .err(),
        Socket::Frames(stream) => from_unix_stream(stream, settings)
            .map(|io| spawn_detached(async move { drop(reception.opened(io, address, held).await) }))
            .err(),
    };
    if let Some(error) = failed {
        tracing::debug!(%address, %error, "a socket was closed");
    }
}
