//! A gateway for tests: it takes or refuses every client and answers pings.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rustls_pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::dial::Wire;

/// A CONNECT as the gateway received it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) peer: SocketAddr,
    /// The packet without its fixed header.
    pub(crate) connect: Vec<u8>,
}

/// Serves as long as its test runs.
pub(crate) struct Gateway {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Gateway {
    /// Answers each CONNECT with this code.
    pub(crate) async fn start(code: u8) -> Self {
        Self::serve(code, None).await
    }

    /// The same over TLS, with a certificate for 127.0.0.1; and that certificate, in PEM.
    pub(crate) async fn start_tls() -> (Self, String) {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(crate::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        (Self::serve(0, Some(TlsAcceptor::from(Arc::new(config)))).await, made.cert.pem())
    }

    async fn serve(code: u8, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, seen) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<Seen>>>::default());
        let notes = seen.clone();
        tokio::spawn(async move {
            loop {
                let (stream, peer) = listener.accept().await.unwrap();
                let (tls, notes) = (tls.clone(), notes.clone());
                tokio::spawn(async move {
                    let mut stream: Box<dyn Wire> = match tls {
                        // A client that goes away within the handshake is no concern of a test.
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => Box::new(stream),
                            Err(_) => return,
                        },
                        None => Box::new(stream),
                    };
                    while let Some((first, body)) = next_packet(&mut stream).await {
                        let answer = match first >> 4 {
                            1 => {
                                notes.lock().unwrap().push(Seen { peer, connect: body });
                                vec![0x20, 2, 0, code]
                            }
                            12 => vec![0xd0, 0],
                            _ => return,
                        };
                        if stream.write_all(&answer).await.is_err() || stream.flush().await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, seen }
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

/// The type and flags, and the body, of the client's next packet.
pub(crate) async fn next_packet(stream: &mut (impl Wire + ?Sized)) -> Option<(u8, Vec<u8>)> {
    let first = stream.read_u8().await.ok()?;
    let (mut length, mut shift) = (0, 0);
    loop {
        let byte = stream.read_u8().await.ok()?;
        length |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some((first, body))
}
