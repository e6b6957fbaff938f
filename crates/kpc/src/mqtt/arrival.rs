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
use tokio::sync::OwnedSemaphorePermit;

use super::frames::Frames;
use super::session::Closed;
use super::tls::{Acceptor, Secured};
use super::websocket::{self, Upgraded};
use crate::addresses::Place;
use crate::gateway::Gateway;
use crate::peer::{Peer, PeerCertificate, Transport};
use crate::tls_port::MQTT_PROTOCOLS;

/// What a socket brings to its CONNECT. It is dropped when CONNECT has been answered.
pub(super) struct Arrival {
    pub(super) peer: Peer,
    _held: Held,
}

/// What a socket takes up until its CONNECT has been answered: a place among those of its address and, when it came to the
/// single TLS port, one there.
#[derive(Debug)]
pub(crate) struct Held {
    _place: Place,
    _waiting: Option<OwnedSemaphorePermit>,
}

impl Held {
    pub(crate) fn new(place: Place, waiting: Option<OwnedSemaphorePermit>) -> Self {
        Self { _place: place, _waiting: waiting }
    }
}

/// Serves MQTT over whatever carries it.
pub(super) type Mqtt = Pipeline<State<Arrival, IoBoxed>, (), ()>;

/// What the listeners of one worker thread share.
pub(super) struct Reception {
    gateway: Arc<Gateway>,
    acceptor: Option<Acceptor>,
    /// For the single TLS port.
    routed: Option<Acceptor>,
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
        let routed = acceptor.as_ref().map(|acceptor| acceptor.speaking(&MQTT_PROTOCOLS));
        Rc::new(Self { gateway, acceptor, routed, frame_bytes_max, mqtt })
    }

    /// MQTT over plain TCP.
    pub(super) async fn tcp(&self, io: Io) -> Result<(), Closed> {
        let (address, held) = self.enter(&io)?;
        let arrival = Arrival { peer: Peer::tcp(address), _held: held };
        self.serve(io.boxed(), arrival).await
    }

    /// MQTT over TLS. What shakes hands is boxed, so that it takes no memory afterwards.
    pub(super) async fn tls(&self, io: Io) -> Result<(), Closed> {
        let (address, held) = self.enter(&io)?;
        let (io, certificate) = Box::pin(self.secure(self.acceptor.as_ref(), io, address)).await?;
        self.serve(io.boxed(), arrival(address, Transport::Tls, certificate, held)).await
    }

    /// MQTT over TLS, at the single TLS port.
    pub(super) async fn routed(&self, io: Io, address: SocketAddr, held: Held) -> Result<(), Closed> {
        let (io, certificate) = Box::pin(self.secure(self.routed.as_ref(), io, address)).await?;
        self.serve(io.boxed(), arrival(address, Transport::Tls, certificate, held)).await
    }

    /// MQTT over WebSocket, after an opening handshake elsewhere.
    pub(super) async fn opened(&self, io: Io, address: SocketAddr, held: Held) -> Result<(), Closed> {
        let io = io.add_filter(Frames::new(self.frame_bytes_max));
        self.serve(io.boxed(), arrival(address, Transport::Wss, None, held)).await
    }

    /// MQTT over WebSocket.
    pub(super) async fn ws(&self, io: Io) -> Result<(), Closed> {
        let (address, held) = self.enter(&io)?;
        let io = Box::pin(self.upgrade(io, address)).await?;
        self.serve(io.boxed(), arrival(address, Transport::Ws, None, held)).await
    }

    /// MQTT over WebSocket over TLS.
    pub(super) async fn wss(&self, io: Io) -> Result<(), Closed> {
        let (address, held) = self.enter(&io)?;
        let (io, certificate) = Box::pin(self.secure(self.acceptor.as_ref(), io, address)).await?;
        let io = Box::pin(self.upgrade(io, address)).await?;
        self.serve(io.boxed(), arrival(address, Transport::Wss, certificate, held)).await
    }

    async fn serve(&self, io: IoBoxed, arrival: Arrival) -> Result<(), Closed> {
        self.mqtt.call(State { req: io, state: arrival }).await.map_err(Closed::from)
    }

    /// Notes where a socket comes from; it is closed when that has too many that have not said CONNECT.
    fn enter(&self, io: &Io) -> Result<(SocketAddr, Held), Closed> {
        // A socket without an address has lost its other end already.
        let address = io.query::<PeerAddr>().get().ok_or(Closed)?.0;
        let place = self.gateway.enter_socket(address).ok_or(Closed)?;
        Ok((address, Held::new(place, None)))
    }

    async fn secure(
        &self,
        acceptor: Option<&Acceptor>,
        io: Io,
        address: SocketAddr,
    ) -> Result<(Secured, Option<PeerCertificate>), Closed> {
        // There is no listener for TLS without an acceptor.
        let accepted = acceptor.ok_or(Closed)?.accept(io).await;
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
    held: Held,
) -> Arrival {
    Arrival { peer: Peer { address, transport, certificate }, _held: held }
}
