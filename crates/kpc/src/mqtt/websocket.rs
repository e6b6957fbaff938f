//! The way from HTTP to MQTT over WebSocket (RFC 6455; MQTT 5, section 6).
//!
//! Only the opening handshake is here; what follows is in `frames`. The header `Origin` is not looked at, because a
//! connection has no rights by where its page comes from: a client must know an endpoint's token, or credentials.

use std::io;
use std::time::Duration;

use ntex::http::header::{self, HeaderMap};
use ntex::http::{Request, StatusCode, h1};
use ntex::io::{Filter, Io, Layer};
use ntex::url::Url;
use ntex::util::{ByteString, Either};
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
pub(crate) enum Answer {
    /// 101, with these headers.
    Accept(Vec<(&'static str, String)>),
    Refuse {
        status: StatusCode,
        headers: Headers,
        reason: &'static str,
    },
}

type Headers = &'static [(&'static str, &'static str)];

/// How an opening handshake is answered that came with a request elsewhere.
pub(crate) fn opening(parts: &axum::http::request::Parts) -> Answer {
    let mut request = Request::new();
    let head = request.head_mut();
    head.method = parts.method.clone();
    head.uri = Url::parse_target(ByteString::from(parts.uri.path())).unwrap_or_default();
    for (name, value) in &parts.headers {
        // Both libraries know the same values.
        if let Ok(value) = header::HeaderValue::from_bytes(value.as_bytes()) {
            head.headers_mut().append(name.clone(), value);
        }
    }
    answer(&request)
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
        Ok(Err(Either::Left(_))) => refuse(StatusCode::BAD_REQUEST, &[], "this is no HTTP request"),
        Err(_) => return Err(Failed::Timeout(patience)),
    };
    match answer {
        Answer::Accept(headers) => {
            let headers = lines(headers.iter().map(|(name, value)| (*name, value.as_str())));
            let head = format!("HTTP/1.1 {}\r\n{headers}\r\n", StatusCode::SWITCHING_PROTOCOLS);
            write(&io, &head).await.map_err(Failed::Write)?;
            Ok(io.add_filter(Frames::new(frame_bytes_max)))
        }
        Answer::Refuse { status, headers, reason } => {
            let (length, headers) = (reason.len() + 1, lines(headers.iter().copied()));
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

fn lines<'h>(headers: impl Iterator<Item = (&'h str, &'h str)>) -> String {
    headers.map(|(name, value)| format!("{name}: {value}\r\n")).collect()
}

async fn write<F: Filter>(io: &Io<F>, text: &str) -> io::Result<()> {
    io.encode_slice(text.as_bytes())?;
    io.flush(true).await
}

const fn refuse(status: StatusCode, headers: Headers, reason: &'static str) -> Answer {
    Answer::Refuse { status, headers, reason }
}

fn answer(request: &Request) -> Answer {
    if !PATHS.contains(&request.path()) {
        return refuse(StatusCode::NOT_FOUND, &[], "MQTT over WebSocket is at /mqtt and /ws");
    }
    if let Err(error) = ws::verify_handshake(request.head()) {
        use ws::error::HandshakeError::{BadWebsocketKey, GetMethodRequired};
        const UPGRADE: Headers = &[("upgrade", "websocket"), ("sec-websocket-version", "13")];
        return match error {
            GetMethodRequired => {
                refuse(StatusCode::METHOD_NOT_ALLOWED, &[("allow", "GET")], "open a WebSocket with GET")
            }
            BadWebsocketKey => refuse(StatusCode::BAD_REQUEST, &[], "the header Sec-WebSocket-Key is wrong"),
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
        return refuse(StatusCode::BAD_REQUEST, &[], reason);
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).and_then(|key| ws::hash_key(key.as_bytes()).ok());
    let Some(key) = key else {
        return refuse(StatusCode::BAD_REQUEST, &[], "the header Sec-WebSocket-Key is wrong");
    };
    let protocol = (!offered.is_empty()).then(|| ("sec-websocket-protocol", PROTOCOL.to_owned()));
    let headers = [("upgrade", "websocket".to_owned()), ("connection", "upgrade".to_owned())];
    Answer::Accept(headers.into_iter().chain([("sec-websocket-accept", key)]).chain(protocol).collect())
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
            Answer::Accept(headers) => lines(headers.iter().map(|(name, value)| (*name, value.as_str()))),
            refused => panic!("{refused:?}"),
        }
    }

    fn status(answer: Answer) -> u16 {
        match answer {
            Answer::Refuse { status, .. } => status.as_u16(),
            Answer::Accept(headers) => panic!("{headers:?}"),
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
            assert!(chosen.ends_with("sec-websocket-protocol: mqtt\r\n"), "{chosen}");
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
