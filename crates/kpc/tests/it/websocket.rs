//! MQTT over WebSocket.

use std::time::Duration;

use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::client::{Client, Packet, Wire};
use crate::tls::{Served, dial};
use crate::world::{Gate, World};

const WITHIN: Duration = Duration::from_secs(20);

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// A WebSocket, frame by frame.
pub(crate) struct Socket {
    stream: Box<dyn Wire>,
}

/// A gateway that serves WebSocket on this port.
async fn gate(world: &World, extra: &[(&str, &str)]) -> (Gate, testkit::Port) {
    let port = testkit::Port::reserve();
    let listen = format!("127.0.0.1:{}", port.number());
    let settings = [("kpc.mqtt.ws.enabled", "true"), ("kpc.mqtt.ws.listen", listen.as_str())];
    (world.gate(&settings.into_iter().chain(extra.iter().copied()).collect::<Vec<_>>()).await, port)
}

async fn tcp(port: &testkit::Port) -> TcpStream {
    TcpStream::connect(("127.0.0.1", port.number())).await.unwrap()
}

/// Sends a request and reads the head of the answer.
async fn request(stream: &mut dyn Wire, path: &str, headers: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(WITHIN, stream.read_u8()).await.unwrap().unwrap());
    }
    String::from_utf8(head).unwrap()
}

const UPGRADE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const OFFER: &str = "Sec-WebSocket-Protocol: mqtt\r\n";

impl Socket {
    pub(crate) async fn open(stream: impl Wire + 'static, path: &str) -> Self {
        let mut stream: Box<dyn Wire> = Box::new(stream);
        let answer = request(&mut *stream, path, &format!("{UPGRADE}{OFFER}")).await;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        assert!(answer.contains("sec-websocket-protocol: mqtt\r\n"), "{answer}");
        assert!(answer.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{answer}");
        Self { stream }
    }

    async fn send(&mut self, opcode: u8, is_last: bool, payload: &[u8]) {
        self.stream.write_all(&frame(opcode, is_last, payload)).await.unwrap();
    }

    /// The next frame; none at the end.
    async fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        timeout(WITHIN, read(&mut *self.stream)).await.expect("no frame came in time")
    }

    /// The next bytes that come in binary frames, so many.
    async fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < count {
            let (opcode, payload) = self.next().await.expect("the connection was closed");
            assert_eq!(opcode, BINARY);
            bytes.extend(payload);
        }
        bytes
    }

    /// The code of the close frame with which the gateway ends the connection.
    async fn closed(&mut self) -> u16 {
        let (opcode, payload) = self.next().await.expect("a close frame comes");
        assert_eq!(opcode, CLOSE, "{payload:?}");
        assert_eq!(self.next().await, None);
        u16::from_be_bytes([payload[0], payload[1]])
    }

    /// A client of MQTT over it.
    pub(crate) fn client(self, version: u8) -> Client {
        let (near, far) = tokio::io::duplex(1 << 16);
        tokio::spawn(pump(self, far));
        Client::over(near, version)
    }
}

/// Carries bytes in frames both ways.
async fn pump(socket: Socket, mqtt: DuplexStream) {
    let (mut from, mut to) = tokio::io::split(socket.stream);
    let (mut input, mut output) = tokio::io::split(mqtt);
    let outgoing = async {
        let mut chunk = [0; 1_000];
        while let Ok(count @ 1..) = input.read(&mut chunk).await {
            if to.write_all(&frame(BINARY, true, &chunk[..count])).await.is_err() {
                return;
            }
        }
    };
    let incoming = async {
        while let Some((opcode, payload)) = read(&mut from).await {
            if opcode != BINARY || output.write_all(&payload).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = outgoing => {}
        () = incoming => {}
    }
}

fn frame(opcode: u8, is_last: bool, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];
    let mut bytes = vec![opcode | if is_last { 0x80 } else { 0 }];
    match payload.len() {
        length @ ..126 => bytes.push(0x80 | u8::try_from(length).unwrap()),
        length @ ..65_536 => {
            bytes.push(0x80 | 126);
            bytes.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 127);
            bytes.extend(u64::try_from(length).unwrap().to_be_bytes());
        }
    }
    bytes.extend(MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

async fn read(stream: &mut (impl tokio::io::AsyncRead + Unpin + ?Sized)) -> Option<(u8, Vec<u8>)> {
    let first = stream.read_u8().await.ok()?;
    assert_eq!(first & 0xF0, 0x80, "the gateway sends whole frames");
    let length = match stream.read_u8().await.ok()? {
        126 => usize::from(stream.read_u16().await.ok()?),
        127 => usize::try_from(stream.read_u64().await.ok()?).unwrap(),
        length => usize::from(length),
    };
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await.ok()?;
    Some((first & 0x0F, payload))
}

const CONNECT: &[u8] = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01c";
const CONNACK: &[u8] = b"\x20\x02\x00\x00";
const PINGREQ: &[u8] = b"\xC0\x00";
const PINGRESP: &[u8] = b"\xD0\x00";

#[tokio::test(flavor = "multi_thread")]
async fn devices_speak_mqtt_over_websocket() {
    let world = World::new().await;
    let (_gate, port) = gate(&world, &[]).await;
    for (version, path) in [(4, "/mqtt"), (5, "/ws"), (5, "/mqtt?token=ignored")] {
        let mut client = Socket::open(tcp(&port).await, path).await.client(version).hello("c").await;
        assert_eq!(client.subscribe(&["kp1/demo-v1/echo/t1/#"], 1).await, [1]);
        for payload in ["small".to_owned(), "large".repeat(100_000)] {
            let id = client.publish("kp1/demo-v1/echo/t1/json/1", &payload, 1).await;
            assert_eq!(client.acknowledged(id).await, 0);
            assert_eq!(client.message("kp1/demo-v1/echo/t1/json/1/status").await, payload);
        }
        client.disconnect().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_and_packets_need_not_match() {
    let world = World::new().await;
    let (_gate, port) = gate(&world, &[]).await;
    let mut socket = Socket::open(tcp(&port).await, "/mqtt").await;
    // A packet in several frames, of one message and of several, with control frames between.
    socket.send(BINARY, false, &CONNECT[..1]).await;
    socket.send(PING, true, b"between").await;
    socket.send(CONTINUATION, false, &CONNECT[1..4]).await;
    socket.send(CONTINUATION, true, &[]).await;
    socket.send(BINARY, true, &CONNECT[4..10]).await;
    socket.send(PONG, true, b"nobody asked").await;
    socket.send(BINARY, true, &CONNECT[10..]).await;
    assert_eq!(socket.next().await, Some((PONG, b"between".to_vec())));
    assert_eq!(socket.bytes(4).await, CONNACK);
    // Several packets in a frame, and a half one.
    let publish = b"\x32\x21\x00\x1akp1/demo-v1/echo/t1/json/7\x00\x01abc";
    socket.send(BINARY, true, &[PINGREQ, publish, PINGREQ, PINGREQ, &PINGREQ[..1]].concat()).await;
    socket.send(BINARY, true, &PINGREQ[1..]).await;
    let answers = socket.bytes(4 * PINGRESP.len() + 4 + 42).await;
    let count = |part: &[u8]| answers.windows(part.len()).filter(|window| *window == part).count();
    assert_eq!((count(PINGRESP), count(b"\x40\x02\x00\x01"), count(b"/status")), (4, 1, 1), "{answers:?}");
    // A frame that comes byte by byte.
    for byte in frame(BINARY, true, PINGREQ) {
        socket.stream.write_all(&[byte]).await.unwrap();
        socket.stream.flush().await.unwrap();
    }
    let answers = socket.bytes(PINGRESP.len()).await;
    assert!(answers.ends_with(PINGRESP), "{answers:?}");
    socket.send(CLOSE, true, &1_000_u16.to_be_bytes()).await;
    assert_eq!(socket.closed().await, 1_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_message_comes_in_one_frame() {
    let world = World::new().await;
    let (_gate, port) = gate(&world, &[]).await;
    let mut socket = Socket::open(tcp(&port).await, "/mqtt").await;
    socket.send(BINARY, true, CONNECT).await;
    assert_eq!(socket.bytes(4).await, CONNACK);
    let mut publish = b"\x32\xC4\xD5\x3D\x00\x1akp1/demo-v1/echo/t1/json/7\x00\x01".to_vec();
    let head = publish.len();
    publish.resize(head + 1_000_000, b'x');
    // The remaining length, in three digits of seven bits.
    let length = publish.len() - 4;
    let digit = |shift: u32| u8::try_from(length >> shift & 0x7F).unwrap();
    (publish[1], publish[2], publish[3]) = (digit(0) | 0x80, digit(7) | 0x80, digit(14));
    socket.send(BINARY, true, &publish).await;
    let answers = socket.bytes(1_000_000).await;
    assert!(answers.windows(4).any(|window| window == b"\x40\x02\x00\x01") || answers.len() > 1_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_mqtt_in_binary_frames_is_closed() {
    let world = World::new().await;
    let (_gate, port) = gate(&world, &[("kpc.limits.payload_bytes", "1000")]).await;
    let open = async || {
        let mut socket = Socket::open(tcp(&port).await, "/mqtt").await;
        socket.send(BINARY, true, CONNECT).await;
        assert_eq!(socket.bytes(4).await, CONNACK);
        socket
    };
    let mut socket = open().await;
    socket.send(TEXT, true, PINGREQ).await;
    assert_eq!(socket.closed().await, 1_003);
    let mut socket = open().await;
    socket.send(TEXT, false, PINGREQ).await;
    assert_eq!(socket.closed().await, 1_003);
    // Without a mask.
    let mut socket = open().await;
    socket.stream.write_all(&[0x82, 2, 0xC0, 0]).await.unwrap();
    assert_eq!(socket.closed().await, 1_002);
    // Longer than any packet may be; the announcement is enough.
    let mut socket = open().await;
    let longest = 2 * 1_000 + 128 * 1_024;
    socket.stream.write_all(&frame(BINARY, true, &vec![0; longest + 1])[..14]).await.unwrap();
    assert_eq!(socket.closed().await, 1_009);
    // The gateway's own farewell.
    let mut socket = open().await;
    socket.send(BINARY, true, b"\xE0\x00").await;
    let (opcode, payload) = socket.next().await.unwrap();
    assert_eq!((opcode, payload), (CLOSE, 1_000_u16.to_be_bytes().to_vec()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_opens_no_websocket_is_told_how_to() {
    let world = World::new().await;
    let (_gate, port) = gate(&world, &[]).await;
    let all = format!("{UPGRADE}{OFFER}");
    let foreign = format!("{UPGRADE}Sec-WebSocket-Protocol: mqttv3.1, wamp\r\n");
    let cases = [
        ("/", all.as_str(), "404", "/mqtt and /ws"),
        ("/mqtt/x", &all, "404", "/mqtt and /ws"),
        ("/mqtt", "", "426", "open a WebSocket"),
        ("/ws", &foreign, "400", "only mqtt is spoken"),
    ];
    for (path, headers, status, text) in cases {
        let mut stream = tcp(&port).await;
        let head = request(&mut stream, path, headers).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        assert_eq!(head.contains("upgrade: websocket\r\n"), status == "426", "{head}");
        let mut body = String::new();
        timeout(WITHIN, stream.read_to_string(&mut body)).await.unwrap().unwrap();
        assert!(body.contains(text), "{body}");
    }
    // Plain MQTT.
    let mut stream = tcp(&port).await;
    stream.write_all(CONNECT).await.unwrap();
    let mut answer = String::new();
    stream.write_all(b"\r\n\r\n").await.unwrap();
    timeout(WITHIN, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    // A client that offers no sub-protocol is taken for one that speaks MQTT.
    let mut stream = tcp(&port).await;
    let head = request(&mut stream, "/mqtt", UPGRADE).await;
    assert!(head.starts_with("HTTP/1.1 101 ") && !head.contains("protocol"), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_does_not_come_is_not_waited_for() {
    let world = World::new().await;
    let (_gate, port) = gate(&world, &[("kpc.mqtt.connect_timeout_s", "1")]).await;
    for beginning in ["", "GET /mqtt HTTP/1.1\r\n"] {
        let mut stream = tcp(&port).await;
        stream.write_all(beginning.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        timeout(WITHIN, stream.read_to_end(&mut rest)).await.unwrap().unwrap();
        assert!(rest.is_empty());
    }
    // Nor is a CONNECT.
    let mut socket = Socket::open(tcp(&port).await, "/mqtt").await;
    while socket.next().await.is_some() {}
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_speak_mqtt_over_websocket_over_tls() {
    let world = World::new().await;
    let served = Served::new();
    let _gate = served.gate(&world, &[]).await;
    for tls in [&TLS12, &TLS13] {
        let stream = dial(served.wss_port(), &served.connector(&[tls], None)).await.unwrap();
        let mut client = Socket::open(stream, "/mqtt").await.client(5).hello("c").await;
        for payload in ["small".to_owned(), "large".repeat(100_000)] {
            let id = client.publish("kp1/demo-v1/echo/t1/json/1", &payload, 1).await;
            assert_eq!(client.acknowledged(id).await, 0);
            assert_eq!(client.message("kp1/demo-v1/echo/t1/json/1/status").await, payload);
        }
        client.disconnect().await;
        // Refusals come whole through TLS too.
        let mut stream = dial(served.wss_port(), &served.connector(&[tls], None)).await.unwrap();
        assert!(request(&mut stream, "/", "").await.starts_with("HTTP/1.1 404 "));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_stops_says_so_whatever_carries_mqtt() {
    let world = World::new().await;
    let served = Served::new();
    let port = testkit::Port::reserve();
    let listen = format!("127.0.0.1:{}", port.number());
    let gate = served
        .gate(&world, &[("kpc.mqtt.ws.enabled", "true"), ("kpc.mqtt.ws.listen", listen.as_str())])
        .await;
    let connector = served.connector(&[&TLS13], None);
    let wss = dial(served.wss_port(), &connector).await.unwrap();
    let mut clients = [
        Client::over(served.dial(&connector).await.unwrap(), 5).hello("tls").await,
        Socket::open(tcp(&port).await, "/mqtt").await.client(5).hello("ws").await,
        Socket::open(wss, "/mqtt").await.client(5).hello("wss").await,
    ];
    let (stopped, ()) = tokio::join!(gate.platform.stop(), async {
        for client in &mut clients {
            assert_eq!(client.next().await, Packet::Disconnect { code: 0x8B });
            assert_eq!(client.next_or_end().await, None);
        }
    });
    stopped.unwrap();
}
