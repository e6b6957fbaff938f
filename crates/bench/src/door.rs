//! The way in for MQTT clients that only connect.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::BytesMut;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use uuid::Uuid;

use crate::dial::{self, Hello, Sources, Stream};
use crate::platform::Platform;
use crate::profile::Access;
use crate::rest::{Login, Rest};
use crate::tls;

/// For a TCP connection, the TLS handshake and the CONNACK together.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// The longest that the gateway grants: clients that say nothing stay connected.
const KEEP_ALIVE_S: u16 = 3_600;
/// Logins or certificates that the clients of a measurement have between them.
const IDENTITIES: u32 = 16;

/// Where clients connect and as whom.
pub(crate) struct Door {
    /// The beginning of all client ids.
    tag: String,
    gateways: Vec<SocketAddr>,
    sources: Sources,
    /// One for each certificate, or one without; none for plain TCP.
    tls: Vec<TlsConnector>,
    logins: Vec<Login>,
    /// Where the credentials that were made are found over REST.
    credentials: Vec<String>,
    opened: AtomicUsize,
}

impl Door {
    /// Makes the credentials that `access` needs. Each is used once before this returns: first uses cost more.
    pub(crate) async fn prepare(platform: &Platform, access: Access) -> Result<Self> {
        let rest = &platform.rest;
        let mut door = Self::new(if access.over_tls() { platform.mqtt_tls()? } else { platform.mqtt() });
        match door.equip(rest, access).await {
            Ok(()) => Ok(door),
            Err(error) => {
                // The first error is the one to tell.
                let _ = door.withdraw(rest).await;
                Err(error)
            }
        }
    }

    async fn equip(&mut self, rest: &Rest, access: Access) -> Result<()> {
        match access {
            Access::Plain => {}
            Access::Password => self.logins = rest.create_logins(&self.tag, None, IDENTITIES).await?,
            Access::ChosenPassword => {
                let chosen = Uuid::new_v4().to_string();
                self.logins = rest.create_logins(&self.tag, Some(&chosen), IDENTITIES).await?;
            }
            Access::Tls => self.tls = vec![tls::connector(&rest.root_certificate().await?, None)?],
            Access::TlsCertificate => {
                let root = rest.root_certificate().await?;
                for own in rest.create_certificates(&self.tag, IDENTITIES).await? {
                    let connector = tls::connector(&root, Some(&own));
                    self.credentials.push(own.path);
                    self.tls.push(connector?);
                }
            }
        }
        self.credentials.extend(self.logins.iter().map(|login| login.path.clone()));
        for _ in 0..self.logins.len().max(self.tls.len()).max(1) {
            let stream = self.open().await.context("the first connection failed")?;
            dial::leave(stream, Vec::new()).await;
        }
        Ok(())
    }

    fn new(gateways: Vec<SocketAddr>) -> Self {
        Self {
            tag: format!("bench-{}", Uuid::new_v4().simple()),
            gateways,
            sources: Sources::default(),
            tls: Vec::new(),
            logins: Vec::new(),
            credentials: Vec::new(),
            opened: AtomicUsize::new(0),
        }
    }

    /// Opens a connection, as a client that there has not been before, up to its CONNACK.
    pub(crate) async fn open(&self) -> Result<Stream> {
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        timeout(CONNECT_WITHIN, self.open_as(number))
            .await
            .with_context(|| format!("no CONNACK within {CONNECT_WITHIN:?}"))?
    }

    async fn open_as(&self, number: usize) -> Result<Stream> {
        let gateway = *turn(&self.gateways, number).context("no address of the gateway is known")?;
        let stream = self.sources.reach(gateway).await?;
        let mut stream: Stream = match turn(&self.tls, number) {
            Some(connector) => dial::secure(connector, stream, gateway).await?,
            None => Box::new(stream),
        };
        let client_id = format!("{}-{number}", self.tag);
        let login = turn(&self.logins, number);
        let hello = Hello { client_id: &client_id, login, keep_alive_s: KEEP_ALIVE_S };
        dial::greet(&mut stream, &mut BytesMut::new(), &hello).await?;
        Ok(stream)
    }

    /// Takes the credentials back that were made.
    pub(crate) async fn withdraw(&self, rest: &Rest) -> Result<()> {
        rest.delete_all(&self.credentials).await
    }
}

/// The one whose turn it is.
fn turn<T>(all: &[T], number: usize) -> Option<&T> {
    all.get(number.checked_rem(all.len())?)
}

#[cfg(test)]
impl Door {
    /// To a gateway of a test, without credentials.
    pub(crate) fn to(gateway: SocketAddr) -> Self {
        Self::new(vec![gateway])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Gateway;

    #[tokio::test]
    async fn each_client_is_another_and_logins_take_turns() {
        let gateway = Gateway::start(0).await;
        let mut door = Door::to(gateway.address);
        door.logins = vec![Login::new("a@t", "one"), Login::new("b@t", "two")];
        for _ in 0..3 {
            dial::leave(door.open().await.unwrap(), Vec::new()).await;
        }
        let ends: Vec<&[u8]> =
            vec![b"-0\0\x03a@t\0\x03one", b"-1\0\x03b@t\0\x03two", b"-2\0\x03a@t\0\x03one"];
        let seen = gateway.seen();
        assert_eq!(seen.len(), 3);
        for (seen, end) in seen.iter().zip(ends) {
            assert!(seen.connect.ends_with(end), "{seen:?}");
        }
    }

    #[tokio::test]
    async fn over_tls_only_the_gateway_that_the_root_vouches_for_is_trusted() {
        let (gateway, root) = Gateway::start_tls().await;
        let mut door = Door::to(gateway.address);
        door.tls = vec![tls::connector(&root, None).unwrap()];
        door.open().await.unwrap();
        let (_, other_root) = Gateway::start_tls().await;
        door.tls = vec![tls::connector(&other_root, None).unwrap()];
        let error = door.open().await.err().unwrap();
        assert!(format!("{error:#}").contains("no TLS with the gateway"), "{error:#}");
        assert_eq!(gateway.seen().len(), 1);
    }
}
