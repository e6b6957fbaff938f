//! What a client offers, looked at before anybody answers.

use std::io;
use std::time::Duration;

use rustls::server::Acceptor;
use tokio::net::TcpStream;

/// Longest first message of a client that is looked at, in bytes. With the largest keys of today it has about 2,000.
pub const CLIENT_HELLO_BYTES_MAX: usize = 16 * 1_024;
/// Room for a usual first message.
const CLIENT_HELLO_BYTES: usize = 2_048;
/// Shortest and longest time between two looks at a first message that comes in parts: bytes that stay in the socket
/// wake nobody.
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(64);
/// `no_application_protocol` as a fatal alert (RFC 8446, section 6; RFC 7301, section 3.2).
const NO_APPLICATION_PROTOCOL: [u8; 7] = [0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x78];

/// The application protocols that a client offers (ALPN, RFC 7301), the best first; none when it does not say.
pub type Offer = Option<Vec<Vec<u8>>>;

/// Why it is not known what a client offers.
#[derive(Debug, thiserror::Error)]
pub enum HelloError {
    /// The connection has ended.
    #[error("the connection was cut: {0}")]
    Cut(#[from] io::Error),
    /// It speaks something else than TLS.
    #[error("this is no TLS client: {0}")]
    NotTls(rustls::Error),
    /// Its first message has no end.
    #[error("its first message is longer than {CLIENT_HELLO_BYTES_MAX} bytes")]
    TooLong,
}

/// Looks at what the client of a new socket offers, and leaves every byte in the socket for whoever shakes hands with it.
/// It waits for as long as the client takes: bound it in time. Who speaks no TLS is told so.
///
/// # Errors
/// See [`HelloError`].
pub async fn offer(stream: &TcpStream) -> Result<Offer, HelloError> {
    let mut reader = Reader::default();
    let mut buffer = vec![0; CLIENT_HELLO_BYTES];
    let (mut seen, mut pause) = (0, PAUSE_MIN);
    loop {
        let count = stream.peek(&mut buffer).await?;
        if count == 0 {
            return Err(HelloError::Cut(io::ErrorKind::UnexpectedEof.into()));
        }
        if count > seen {
            match reader.feed(&buffer[seen..count]) {
                Ok(Some(offer)) => return Ok(offer),
                Ok(None) => seen = count,
                Err(Refused { error, alert }) => {
                    say_last(stream, &alert);
                    return Err(HelloError::NotTls(error));
                }
            }
        }
        if seen < buffer.len() {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        } else if seen < CLIENT_HELLO_BYTES_MAX {
            buffer.resize((seen * 2).min(CLIENT_HELLO_BYTES_MAX), 0);
        } else {
            return Err(HelloError::TooLong);
        }
    }
}

/// Tells a client that has only been looked at that none of the protocols that it offers is spoken here.
pub fn refuse_protocols(stream: &TcpStream) {
    say_last(stream, &NO_APPLICATION_PROTOCOL);
}

/// Sends a client its last message, if it takes it without delay.
fn say_last(stream: &TcpStream, message: &[u8]) {
    let _ = stream.try_write(message);
    // A socket that is closed with unread bytes is reset, and the message may be lost with it.
    let _ = stream.try_read(&mut [0; CLIENT_HELLO_BYTES_MAX]);
}

/// Reads a first message that comes in parts.
#[derive(Default)]
struct Reader(Acceptor);

#[derive(Debug)]
struct Refused {
    error: rustls::Error,
    alert: Vec<u8>,
}

impl Reader {
    /// Takes the next bytes; the offer once the message is whole. Nothing may be fed after that.
    fn feed(&mut self, mut bytes: &[u8]) -> Result<Option<Offer>, Refused> {
        while !bytes.is_empty() {
            if let Err(error) = self.0.read_tls(&mut bytes) {
                return Err(Refused { error: rustls::Error::General(error.to_string()), alert: Vec::new() });
            }
            match self.0.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    let hello = accepted.client_hello();
                    return Ok(Some(hello.alpn().map(|offered| offered.map(<[u8]>::to_vec).collect())));
                }
                Err((error, mut to_send)) => {
                    let mut alert = Vec::new();
                    // Writing to memory does not fail.
                    drop(to_send.write_all(&mut alert));
                    return Err(Refused { error, alert });
                }
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    const WITHIN: Duration = Duration::from_secs(20);

    /// The first message of a client that offers these.
    fn hello(protocols: &[&str]) -> Vec<u8> {
        let builder = ClientConfig::builder_with_provider(crate::provider());
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let name = "gateway.example".try_into().unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    fn offer_of(names: &[&str]) -> Offer {
        (!names.is_empty()).then(|| names.iter().map(|name| name.as_bytes().to_vec()).collect())
    }

    async fn sockets() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn the_offer_is_seen_and_every_byte_stays() {
        for names in [&["x-amzn-mqtt-ca"][..], &["h2", "http/1.1"], &[]] {
            let (mut client, mut server) = sockets().await;
            let bytes = hello(names);
            let parts = async {
                for part in bytes.chunks(100) {
                    client.write_all(part).await.unwrap();
                    tokio::task::yield_now().await;
                }
            };
            let (seen, ()) = tokio::join!(tokio::time::timeout(WITHIN, offer(&server)), parts);
            assert_eq!(seen.unwrap().unwrap(), offer_of(names));
            let mut left = vec![0; bytes.len()];
            server.read_exact(&mut left).await.unwrap();
            assert_eq!(left, bytes);
        }
    }

    #[tokio::test]
    async fn what_is_no_tls_is_told_so_and_nobody_waits_for_who_has_gone() {
        let (mut client, server) = sockets().await;
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let error = tokio::time::timeout(WITHIN, offer(&server)).await.unwrap().unwrap_err();
        assert!(matches!(error, HelloError::NotTls(_)), "{error}");
        drop(server);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert!(answer.is_empty() || answer[0] == 0x15, "{answer:?}");
        let (client, server) = sockets().await;
        drop(client);
        assert!(matches!(offer(&server).await, Err(HelloError::Cut(_))));
    }

    #[tokio::test]
    async fn a_message_without_an_end_is_given_up() {
        let (mut client, server) = sockets().await;
        // Records of a first message that claims a length of 65,000 bytes.
        let message = [&[1, 0, 0xFD, 0xE8][..], &[0; 20_000]].concat();
        for part in message.chunks(10_000) {
            let length = u16::try_from(part.len()).unwrap().to_be_bytes();
            client.write_all(&[&[0x16, 3, 1][..], &length, part].concat()).await.unwrap();
        }
        let error = tokio::time::timeout(WITHIN, offer(&server)).await.unwrap().unwrap_err();
        assert!(matches!(error, HelloError::TooLong | HelloError::NotTls(_)), "{error}");
    }

    #[tokio::test]
    async fn who_offers_nothing_known_is_told_so_in_tls() {
        let (mut client, server) = sockets().await;
        client.write_all(&hello(&["h2"])).await.unwrap();
        offer(&server).await.unwrap();
        refuse_protocols(&server);
        drop(server);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, NO_APPLICATION_PROTOCOL);
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_parts_are_read_or_refused(parts: Vec<Vec<u8>>) {
            let mut reader = Reader::default();
            for part in &parts {
                if !matches!(reader.feed(part), Ok(None)) {
                    break;
                }
            }
        }

        #[test]
        fn a_damaged_message_is_read_or_refused(at: prop::sample::Index, byte: u8, cut: prop::sample::Index) {
            let mut bytes = hello(&["mqtt", "http/1.1"]);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let (first, second) = bytes.split_at(cut.index(bytes.len()));
            let mut reader = Reader::default();
            if let Ok(None) = reader.feed(first) {
                drop(reader.feed(second));
            }
        }

        #[test]
        fn the_parts_do_not_matter(cut: prop::sample::Index) {
            let bytes = hello(&["mqtt", "http/1.1"]);
            let (first, second) = bytes.split_at(cut.index(bytes.len()));
            let mut reader = Reader::default();
            prop_assert!(matches!(reader.feed(first), Ok(None)));
            prop_assert_eq!(reader.feed(second).unwrap(), Some(offer_of(&["mqtt", "http/1.1"])));
        }
    }
}
