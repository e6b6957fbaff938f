//! Opens and closes MQTT connections, over TCP or TLS.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, BytesMut};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

use crate::mqtt::{self, Packet};
use crate::rest::Login;

/// Local addresses, from 127.0.0.2 on, that connections to this machine come from in turn. One address has some 28,000
/// ports, each of which rests for a minute after its connection. A power of two, so that the counter may wrap.
const SOURCES: u8 = 32;

/// Bytes that a connection goes over.
pub(crate) trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// An open connection, over TCP or TLS.
pub(crate) type Stream = Box<dyn Wire>;

/// Who connects.
#[derive(Debug)]
pub(crate) struct Hello<'a> {
    pub(crate) client_id: &'a str,
    pub(crate) login: Option<&'a Login>,
    /// 0: none.
    pub(crate) keep_alive_s: u16,
}

/// The gateway's no to a CONNECT.
#[derive(Debug, thiserror::Error)]
#[error("the gateway refused CONNECT with code {code} ({})", reason(*.code))]
pub(crate) struct Refused {
    pub(crate) code: u8,
}

/// MQTT 3.1.1, section 3.2.2.3.
const fn reason(code: u8) -> &'static str {
    match code {
        1 => "unacceptable protocol version",
        2 => "client id rejected",
        3 => "server unavailable",
        4 => "bad user name or password",
        5 => "not authorized",
        _ => "unknown",
    }
}

/// The addresses that connections come from.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    next: AtomicU8,
}

impl Sources {
    /// Opens a TCP connection.
    pub(crate) async fn reach(&self, gateway: SocketAddr) -> Result<TcpStream> {
        let opened = match gateway.ip() {
            IpAddr::V4(ip) if ip.is_loopback() => {
                let source = 2 + self.next.fetch_add(1, Ordering::Relaxed) % SOURCES;
                let socket = TcpSocket::new_v4()?;
                socket
                    .bind(SocketAddr::from((Ipv4Addr::new(127, 0, 0, source), 0)))
                    .with_context(|| format!("no port is free on 127.0.0.{source}"))?;
                socket.connect(gateway).await
            }
            _ => TcpStream::connect(gateway).await,
        };
        let stream = opened.with_context(|| format!("cannot connect to the gateway at {gateway}"))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// Makes the TLS handshake. The gateway's certificate must be for its address.
pub(crate) async fn secure(
    connector: &TlsConnector,
    stream: TcpStream,
    gateway: SocketAddr,
) -> Result<Stream> {
    let name = ServerName::IpAddress(gateway.ip().into());
    let stream = connector.connect(name, stream).await;
    Ok(Box::new(stream.with_context(|| format!("no TLS with the gateway at {gateway}"))?))
}

/// Says CONNECT and waits for a CONNACK that says yes. What comes after it stays in `inbox`.
pub(crate) async fn greet<S>(stream: &mut S, inbox: &mut BytesMut, hello: &Hello<'_>) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut connect = Vec::new();
    let login = hello.login.map(Login::as_pair);
    mqtt::write_connect(&mut connect, hello.client_id, login, hello.keep_alive_s)?;
    stream.write_all(&connect).await.context("cannot write CONNECT")?;
    stream.flush().await.context("cannot write CONNECT")?;
    loop {
        let read = stream.read_buf(inbox).await.context("cannot read the CONNACK")?;
        ensure!(read > 0, "the gateway closed the connection instead of a CONNACK");
        let Some((packet, length)) = mqtt::read(inbox)? else { continue };
        match packet {
            Packet::ConnAck { code: 0 } => {}
            Packet::ConnAck { code } => return Err(Refused { code }.into()),
            other => bail!("the gateway answered CONNECT with {other:?}"),
        }
        inbox.advance(length);
        return Ok(());
    }
}

/// Says DISCONNECT, after `outbox`, and closes. Whether the gateway still hears this makes no difference.
pub(crate) async fn leave<S: AsyncWrite + Unpin>(mut stream: S, mut outbox: Vec<u8>) {
    mqtt::write_disconnect(&mut outbox);
    let _ = stream.write_all(&outbox).await;
    let _ = stream.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Gateway;

    fn hello(login: Option<&Login>) -> Hello<'_> {
        Hello { client_id: "client", login, keep_alive_s: 60 }
    }

    #[tokio::test]
    async fn a_refusal_names_its_code() {
        for code in [0, 4, 9] {
            let gateway = Gateway::start(code).await;
            let mut stream = Sources::default().reach(gateway.address).await.unwrap();
            let result = greet(&mut stream, &mut BytesMut::new(), &hello(None)).await;
            match result {
                Ok(()) => assert_eq!(code, 0),
                Err(error) => {
                    assert_eq!(error.downcast_ref::<Refused>().unwrap().code, code);
                    assert!(code != 4 || error.to_string().contains("bad user name or password"), "{error}");
                }
            }
        }
    }

    #[tokio::test]
    async fn the_login_is_shown_and_connections_come_from_different_addresses() {
        let gateway = Gateway::start(0).await;
        let login = Login::new("meter@acme", "secret");
        let sources = Sources::default();
        for _ in 0..2 {
            let mut stream = sources.reach(gateway.address).await.unwrap();
            greet(&mut stream, &mut BytesMut::new(), &hello(Some(&login))).await.unwrap();
            leave(stream, Vec::new()).await;
        }
        let seen = gateway.seen();
        assert!(seen[0].connect.ends_with(b"\0\x0ameter@acme\0\x06secret"), "{seen:?}");
        assert_ne!(seen[0].peer.ip(), seen[1].peer.ip());
    }
}
