//! The single TLS port: what a client offers in its first message decides who serves it.
//!
//! The socket is looked at and handed on with every byte still in it: to a worker thread of MQTT, or to the HTTP listener
//! of the process. So what holds for their own ports (limits, metrics, certificates, addresses) holds here too.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use rest::Https;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::gateway::Gateway;
use crate::mqtt::{self, Handed, Handover, Held, Socket};

/// The names of MQTT in ALPN (RFC 7301), the best first. The first is what the device SDKs of AWS offer at port 443, and
/// insist on; the second is registered with IANA.
pub(crate) const MQTT_PROTOCOLS: [&[u8]; 2] = [b"x-amzn-mqtt-ca", b"mqtt"];
/// The name of what the HTTP listener speaks.
const HTTP_PROTOCOL: &[u8] = b"http/1.1";
/// How long nothing is accepted after it has failed, so that a lack of files does not take a core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// The listener.
pub(crate) struct TlsPort {
    listener: TcpListener,
    address: SocketAddr,
    waiting: Arc<Semaphore>,
    route: Arc<Route>,
}

/// The ways on from here.
struct Route {
    gateway: Arc<Gateway>,
    handover: Handover,
    https: Option<Https>,
    patience: Duration,
}

/// Who serves a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Destination {
    Mqtt,
    Https,
    Nobody,
}

/// Opens the listener.
pub(crate) fn open(
    gateway: Arc<Gateway>,
    listen: SocketAddr,
    handover: Handover,
    https: Option<Https>,
) -> anyhow::Result<TlsPort> {
    let failed = || format!("cannot listen on {listen}; free the port or set kpc.tls_port.listen");
    let listener = mqtt::bind(listen, gateway.config.mqtt.backlog).with_context(failed)?;
    let listener = TcpListener::from_std(listener).with_context(failed)?;
    let address = listener.local_addr()?;
    let waiting_max = gateway.config.tls_port.waiting_max.min(Semaphore::MAX_PERMITS);
    let patience = Duration::from_secs(gateway.config.mqtt.tls.handshake_timeout_s.into());
    let route = Arc::new(Route { gateway, handover, https, patience });
    Ok(TlsPort { listener, address, waiting: Arc::new(Semaphore::new(waiting_max)), route })
}

impl TlsPort {
    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// One permit for each socket that has not got its CONNACK yet.
    pub(crate) fn waiting(&self) -> Arc<Semaphore> {
        self.waiting.clone()
    }

    /// Routes what comes until `stopping` is cancelled.
    pub(crate) async fn serve(self, stopping: CancellationToken) -> anyhow::Result<()> {
        loop {
            let (accepted, permit) = tokio::select! {
                next = self.next() => next?,
                () = stopping.cancelled() => return Ok(()),
            };
            match accepted {
                Ok((stream, address)) => {
                    let (route, stopping) = (self.route.clone(), stopping.clone());
                    tokio::spawn(async move {
                        tokio::select! {
                            () = route.route(stream, address, permit) => {}
                            () = stopping.cancelled() => {}
                        }
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::error!(%error, "the single TLS port cannot accept: raise the limit of open files (ulimit -n)");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn next(&self) -> anyhow::Result<(io::Result<(TcpStream, SocketAddr)>, OwnedSemaphorePermit)> {
        let permit = self.waiting.clone().acquire_owned().await?;
        Ok((self.listener.accept().await, permit))
    }
}

impl Route {
    /// Finds out what a client wants and hands it on.
    async fn route(&self, stream: TcpStream, address: SocketAddr, permit: OwnedSemaphorePermit) {
        let Some(place) = self.gateway.enter_socket(address) else { return };
        let offer = match tokio::time::timeout(self.patience, tls::offer(&stream)).await {
            Ok(Ok(offer)) => offer,
            Ok(Err(error)) => return self.refuse(address, "tls handshake", &error.to_string()),
            Err(_) => {
                let cause = "nothing came in time (kpc.mqtt.tls.handshake_timeout_s)";
                return self.refuse(address, "tls handshake", cause);
            }
        };
        match (destination(&offer, self.https.is_some()), &self.https) {
            (Destination::Mqtt, _) => match stream.into_std() {
                Ok(stream) => {
                    let held = Held::new(place, Some(permit));
                    self.handover.give(Handed { socket: Socket::Tls(stream), address, held }).await;
                }
                Err(error) => self.refuse(address, "tls handshake", &error.to_string()),
            },
            // From here on the limits of HTTP count.
            (Destination::Https, Some(https)) => {
                if !https.serve(stream, address) {
                    self.refuse(address, "https", "HTTPS takes no more sockets");
                }
            }
            _ => {
                tls::refuse_protocols(&stream);
                self.refuse(address, "alpn", "it offers no protocol that is served here (ALPN)");
            }
        }
    }

    /// Counts a socket that came to nothing.
    fn refuse(&self, address: SocketAddr, reason: &'static str, cause: &str) {
        self.gateway.metrics.refused_connection(reason);
        tracing::debug!(%address, reason, cause, "a socket was closed");
    }
}

/// Who serves a client: the first that it offers and that there is. Who offers nothing is a device.
fn destination(offer: &tls::Offer, with_https: bool) -> Destination {
    let Some(offer) = offer else { return Destination::Mqtt };
    let known = |protocol: &Vec<u8>| match protocol.as_slice() {
        protocol if MQTT_PROTOCOLS.contains(&protocol) => Some(Destination::Mqtt),
        protocol if protocol == HTTP_PROTOCOL && with_https => Some(Destination::Https),
        _ => None,
    };
    offer.iter().find_map(known).unwrap_or(Destination::Nobody)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_protocol_that_is_known_decides() {
        let of = |names: &[&str], with_https| {
            let offer = Some(names.iter().map(|name| name.as_bytes().to_vec()).collect());
            destination(&offer, with_https)
        };
        assert_eq!(destination(&None, true), Destination::Mqtt);
        for name in ["x-amzn-mqtt-ca", "mqtt"] {
            assert_eq!(of(&[name], false), Destination::Mqtt);
        }
        assert_eq!(of(&["h2", "http/1.1"], true), Destination::Https);
        assert_eq!(of(&["http/1.1", "mqtt"], true), Destination::Https);
        assert_eq!(of(&["mqtt", "http/1.1"], true), Destination::Mqtt);
        // Where HTTPS is not served.
        assert_eq!(of(&["http/1.1", "mqtt"], false), Destination::Mqtt);
        assert_eq!(of(&["http/1.1"], false), Destination::Nobody);
        for names in [&["h2"][..], &["MQTT"], &["http/1.0"], &[]] {
            assert_eq!(of(names, true), Destination::Nobody);
        }
    }
}
