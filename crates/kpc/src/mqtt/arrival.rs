//! A socket, from its acceptance until MQTT begins.

use std::fmt::Display;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ntex::Pipeline;
use ntex::io::types::PeerAddr;
use ntex::io::{Filter, Io, IoBoxed};
use ntex::service::State;

use super::session::Closed;
use super::tls::{Acceptor, Secured};
use super::websocket::{self, Upgraded};
use crate::addresses::{CONNECTING_PER_ADDRESS, Place};
use crate::gateway::Gateway;
use crate::peer::{Peer, PeerCertificate, Transport};

/// What a socket brings to its CONNECT. It is dropped when CONNECT has been answered.
pub(super) struct Arrival {
    pub(super) peer: Peer,
    _place: Place,
}

/// Serves MQTT over whatever carries it.
pub(super) type Mqtt = Pipeline<State<Arrival, IoBoxed>, (), ()>;

/// What the listeners of one worker thread share.
pub(super) struct Reception {
    gateway: Arc<Gateway>,
    acceptor: Option<Acceptor>,
    frame_bytes_max: usize,
    mqtt: Mqtt,
}

impl Reception {
    pub(super) fn new(
        gateway: Arc<Gateway>,
        acceptor: Option<Acceptor>,
        frame_bytes_max: usize,
        mqtt: Mqtt,
    ) -> Rc<Self> {
        Rc::new(Self { gateway, acceptor, frame_bytes_max, mqtt })
    }

    /// MQTT over plain TCP.
    pub(super) async fn tcp(&self, io: Io) -> Result<(), Closed> {
        let (address, place) = self.enter(&io)?;
        let arrival = Arrival { peer: Peer::tcp(address), _place: place };
        self.serve(io.boxed(), arrival).await
    }

    /// MQTT over TLS. What shakes hands is boxed, so that it takes no memory afterwards.
    pub(super) async fn tls(&self, io: Io) -> Result<(), Closed> {
        let (address, place) = self.enter(&io)?;
        let (io, certificate) = Box::pin(self.secure(io, address)).await?;
        self.serve(io.boxed(), arrival(address, Transport::Tls, certificate, place)).await
    }

    /// MQTT over WebSocket.
    pub(super) async fn ws(&self, io: Io) -> Result<(), Closed> {
        let (address, place) = self.enter(&io)?;
        let io = Box::pin(self.upgrade(io, address)).await?;
        self.serve(io.boxed(), arrival(address, Transport::Ws, None, place)).await
    }

    /// MQTT over WebSocket over TLS.
    pub(super) async fn wss(&self, io: Io) -> Result<(), Closed> {
        let (address, place) = self.enter(&io)?;
        let (io, certificate) = Box::pin(self.secure(io, address)).await?;
        let io = Box::pin(self.upgrade(io, address)).await?;
        self.serve(io.boxed(), arrival(address, Transport::Wss, certificate, place)).await
    }

    async fn serve(&self, io: IoBoxed, arrival: Arrival) -> Result<(), Closed> {
        self.mqtt.call(State { req: io, state: arrival }).await.map_err(Closed::from)
    }

    /// Notes where a socket comes from; it is closed when that has too many that have not said CONNECT.
    fn enter(&self, io: &Io) -> Result<(SocketAddr, Place), Closed> {
        // A socket without an address has lost its other end already.
        let address = io.query::<PeerAddr>().get().ok_or(Closed)?.0;
        match self.gateway.addresses.enter(address.ip()) {
            Some(place) => Ok((address, place)),
            None => {
                self.gateway.metrics.refused_connection(CONNECTING_PER_ADDRESS);
                tracing::debug!(%address, "a socket was closed: its address has too many ({CONNECTING_PER_ADDRESS})");
                Err(Closed)
            }
        }
    }

    async fn secure(
        &self,
        io: Io,
        address: SocketAddr,
    ) -> Result<(Secured, Option<PeerCertificate>), Closed> {
        // There is no listener for TLS without an acceptor.
        let accepted = self.acceptor.as_ref().ok_or(Closed)?.accept(io).await;
        accepted.map_err(|failed| self.refuse(address, "tls handshake", &failed))
    }

    async fn upgrade<F: Filter>(&self, io: Io<F>, address: SocketAddr) -> Result<Upgraded<F>, Closed> {
        let patience = Duration::from_secs(self.gateway.config.mqtt.connect_timeout_s.into());
        let upgraded = websocket::upgrade(io, self.frame_bytes_max, patience).await;
        upgraded.map_err(|failed| self.refuse(address, "websocket handshake", &failed))
    }

    /// Counts a socket that came to nothing. Scanners make many, so they are logged only when somebody looks.
    fn refuse(&self, address: SocketAddr, reason: &'static str, failed: &dyn Display) -> Closed {
        self.gateway.metrics.refused_connection(reason);
        tracing::debug!(%address, reason, %failed, "a socket was closed");
        Closed
    }
}

fn arrival(
    address: SocketAddr,
    transport: Transport,
    certificate: Option<PeerCertificate>,
    place: Place,
) -> Arrival {
    Arrival { peer: Peer { address, transport, certificate }, _place: place }
}
