//! The way from HTTP to MQTT over WebSocket (RFC 6455; MQTT 5, section 6).
//!
//! Only the opening handshake is here; what follows is in `frames`. The header `Origin` is not looked at, because a
//! connection has no rights by where its page comes from: a client must know an endpoint's token, or credentials.

use std::io;
use std::time::Duration;

use ntex::http::header::{self, HeaderMap};
use ntex::http::{Request, StatusCode, h1};
use ntex::io::{Filter, Io, Layer};
use ntex::util::Either;
use ntex::ws;

use super::frames::Frames;

/// Where MQTT is served.
const PATHS: [&str; 2] = ["/mqtt", "/ws"];
/// The sub-protocol, as registered.
const PROTOCOL: &str = "mqtt";
/// Longest request head in bytes.
pub(super) const HEAD_BYTES_MAX: usize = 16 * 1024;

/// What carries what is said over WebSocket.
pub(super) type Upgraded<F> = Io<Layer<Frames, F>>;

/// Why there is no WebSocket connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    #[error("no whole HTTP request came within {0:?} (kpc.mqtt.connect_timeout_s)")]
    Timeout(Duration),
    #[error("the client has gone")]
    Gone,
    #[error("the client was answered {0}")]
    Refused(StatusCode),
    #[error("the answer could not be written: {0}")]
    Write(io::Error),
}

/// How an opening handshake is answered.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Accept(String),
    Refuse { status: StatusCode, headers: &'static str, reason: &'static str },
}

/// Answers a client's opening handshake.
pub(super) async fn upgrade<F: Filter>(
    io: Io<F>,
    frame_bytes_max: usize,
    patience: Duration,
) -> Result<Upgraded<F>, Failed> {
    let codec = h1::Codec::new(0, io.shared().get());
    let answer = match tokio::time::timeout(patience, io.recv(&codec)).await {
        Ok(Ok(Some((request, _)))) => answer(&request),
        Ok(Ok(None)) | Ok(Err(Either::Right(_))) => return Err(Failed::Gone),
        Ok(Err(Either::Left(_))) => refuse(StatusCode::BAD_REQUEST, "", "this is no HTTP request"),
        Err(_) => return Err(Failed::Timeout(patience)),
    };
    match answer {
        Answer::Accept(head) => {
            write(&io, &head).await.map_err(Failed::Write)?;
            Ok(io.add_filter(Frames::new(frame_bytes_max)))
        }
        Answer::Refuse { status, headers, reason } => {
            let length = reason.len() + 1;
            let text = format!(
                "HTTP/1.1 {status}\r\n{headers}content-type: text/plain; charset=utf-8\r\ncontent-length: {length}\r\n\
                 connection: close\r\n\r\n{reason}\n"
            );
            write(&io, &text).await.map_err(Failed::Write)?;
            // How the end goes is of no interest any more.
            drop(io.shutdown().await);
            Err(Failed::Refused(status))
        }
    }
}

async fn write<F: Filter>(io: &Io<F>, text: &str) -> io::Result<()> {
    io.encode_slice(text.as_bytes())?;
    io.flush(true).await
}

const fn refuse(status: StatusCode, headers: &'static str, reason: &'static str) -> Answer {
    Answer::Refuse { status, headers, reason }
}

fn answer(request: &Request) -> Answer {
    if !PATHS.contains(&request.path()) {
        return refuse(StatusCode::NOT_FOUND, "", "MQTT over WebSocket is at /mqtt and /ws");
    }
    if let Err(error) = ws::verify_handshake(request.head()) {
        use ws::error::HandshakeError::{BadWebsocketKey, GetMethodRequired};
        const UPGRADE: &str = "upgrade: websocket\r\nsec-websocket-version: 13\r\n";
        return match error {
            GetMethodRequired => {
                refuse(StatusCode::METHOD_NOT_ALLOWED, "allow: GET\r\n", "open a WebSocket with GET")
            }
            BadWebsocketKey => refuse(StatusCode::BAD_REQUEST, "", "the header Sec-WebSocket-Key is wrong"),
            _ => refuse(
                StatusCode::UPGRADE_REQUIRED,
                UPGRADE,
                "this is MQTT over WebSocket: open a WebSocket, version 13",
            ),
        };
    }
    let headers = request.headers();
    let offered = offered(headers);
    if !offered.is_empty() && !offered.contains(&PROTOCOL) {
        let reason = "of the sub-protocols only mqtt is spoken (Sec-WebSocket-Protocol)";
        return refuse(StatusCode::BAD_REQUEST, "", reason);
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).and_then(|key| ws::hash_key(key.as_bytes()).ok());
    let Some(key) = key else {
        return refuse(StatusCode::BAD_REQUEST, "", "the header Sec-WebSocket-Key is wrong");
    };
    let protocol =
        if offered.is_empty() { String::new() } else { format!("sec-websocket-protocol: {PROTOCOL}\r\n") };
    Answer::Accept(format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: {key}\r\n\
         {protocol}\r\n"
    ))
}

/// The sub-protocols that the client offers, of all its header lines.
fn offered(headers: &HeaderMap) -> Vec<&str> {
    let lines = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL);
    // What is no text is an offer too, only of nothing that is known.
    lines.flat_map(|line| line.to_str().unwrap_or("?").split(',')).map(str::trim).collect()
}

#[cfg(test)]
mod tests {
    use ntex::http::Method;
    use ntex::http::test::TestRequest;

    use super::*;

    /// A request with these headers beside those of an opening handshake, which they replace.
    fn request(path: &str, others: &[(&'static str, &'static str)]) -> Answer {
        const OPENING: [(&str, &str); 4] = [
            ("upgrade", "websocket"),
            ("connection", "Upgrade"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        let mut request = TestRequest::with_uri(path);
        let replaced = |name| others.iter().any(|(other, _)| *other == name);
        for (name, value) in OPENING.iter().filter(|(name, _)| !replaced(*name)).chain(others) {
            request.header(*name, *value);
        }
        answer(&request.build())
    }

    fn head(answer: Answer) -> String {
        match answer {
            Answer::Accept(head) => head,
            refused => panic!("{refused:?}"),
        }
    }

    fn status(answer: Answer) -> u16 {
        match answer {
            Answer::Refuse { status, .. } => status.as_u16(),
            Answer::Accept(head) => panic!("{head}"),
        }
    }

    #[test]
    fn what_is_offered_decides_what_is_spoken() {
        // The key and its answer are those of RFC 6455, section 1.3.
        let plain = head(request("/ws", &[]));
        assert!(plain.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{plain}");
        assert!(!plain.contains("protocol"), "{plain}");
        const NAME: &str = "sec-websocket-protocol";
        for offers in [
            &[(NAME, "mqtt")][..],
            &[(NAME, "mqttv3.1, mqtt")],
            &[(NAME, "other ,mqtt")],
            &[(NAME, "other"), (NAME, "mqtt")],
        ] {
            let chosen = head(request("/mqtt?x=1", offers));
            assert!(chosen.ends_with("sec-websocket-protocol: mqtt\r\n\r\n"), "{chosen}");
        }
        for offer in ["mqttv3.1", "MQTT5", ""] {
            assert_eq!(status(request("/mqtt", &[(NAME, offer)])), 400, "{offer}");
        }
    }

    #[test]
    fn what_opens_no_websocket_is_told_how() {
        assert_eq!(status(request("/", &[])), 404);
        assert_eq!(status(request("/mqtt/", &[])), 404);
        assert_eq!(status(answer(&TestRequest::with_uri("/mqtt").build())), 426);
        assert_eq!(status(answer(&TestRequest::with_uri("/mqtt").method(Method::POST).build())), 405);
        assert_eq!(status(request("/mqtt", &[("sec-websocket-version", "8")])), 426);
        assert_eq!(status(request("/mqtt", &[("sec-websocket-key", "short")])), 400);
    }
}
