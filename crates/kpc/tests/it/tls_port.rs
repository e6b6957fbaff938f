//! The single TLS port: every protocol at one address, by what the client offers.

use std::time::Duration;

use rustls::AlertDescription;
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::client::Client;
use crate::tls::{Ccm, Identity, Served, authority, device, dial};
use crate::websocket::Socket;
use crate::world::{Gate, World};

const WITHIN: Duration = Duration::from_secs(20);
const AMAZON: &str = "x-amzn-mqtt-ca";

/// A gateway with all of TLS at one port, and what may connect there.
struct Site {
    served: Served,
    gate: Gate,
    port: testkit::Port,
}

impl Site {
    /// `with_https`: whether the process serves HTTPS.
    async fn new(world: &World, with_https: bool, extra: &[(&str, &str)]) -> Self {
        let (served, port) = (Served::new(), testkit::Port::reserve());
        let listen = format!("127.0.0.1:{}", port.number());
        let (certificate, key) = (served.file("tls.crt"), served.file("tls.key"));
        let mut settings = vec![("kpc.tls_port.listen", listen.as_str())];
        if with_https {
            settings.extend([
                ("http.tls.listen", "127.0.0.1:0"),
                ("http.tls.certificate_file", certificate.as_str()),
                ("http.tls.key_file", key.as_str()),
            ]);
        }
        settings.extend(extra);
        let gate = served.gate(world, &settings).await;
        Self { served, gate, port }
    }

    async fn dial(&self, protocols: &[&str]) -> std::io::Result<TlsStream<TcpStream>> {
        let connector = self.served.connector_offering(&[&TLS12, &TLS13], None, protocols);
        dial(self.port.number(), &connector).await
    }

    async fn tcp(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port.number())).await.unwrap()
    }
}

async fn publishes(client: &mut Client) {
    for payload in ["small".to_owned(), "large".repeat(100_000)] {
        let id = client.publish("kp1/demo-v1/echo/t1/json/1", &payload, 1).await;
        assert_eq!(client.acknowledged(id).await, 0);
        assert_eq!(client.message("kp1/demo-v1/echo/t1/json/1/status").await, payload);
    }
}

/// The head and the body of the answer to a request, after which the connection is closed.
async fn ask(stream: &mut TlsStream<TcpStream>, head: &str, body: &str) -> String {
    let length = body.len();
    let request = format!(
        "{head} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    // Servers of HTTP seldom say in TLS that they close.
    drop(timeout(WITHIN, stream.read_to_string(&mut answer)).await.unwrap());
    answer
}

/// Carries what one end sends to the other in parts of a few bytes.
async fn drip(near: DuplexStream, far: TcpStream) {
    far.set_nodelay(true).unwrap();
    let (mut from_client, mut to_client) = tokio::io::split(near);
    let (mut from_gateway, mut to_gateway) = far.into_split();
    let slowly = async {
        let mut part = [0; 40];
        while let Ok(count @ 1..) = from_client.read(&mut part).await {
            to_gateway.write_all(&part[..count]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    };
    tokio::select! {
        () = slowly => {}
        _ = tokio::io::copy(&mut from_gateway, &mut to_client) => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_offers_decides_what_it_gets() {
    let world = World::new().await;
    let site = Site::new(&world, true, &[]).await;
    for protocols in [&[AMAZON][..], &["mqtt"], &["h2", "mqtt"], &[]] {
        for version in [4, 5] {
            let stream = site.dial(protocols).await.unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), protocols.last().map(|name| name.as_bytes()));
            let mut client = Client::over(stream, version).hello("c").await;
            publishes(&mut client).await;
            client.disconnect().await;
        }
    }
    let mut stream = site.dial(&["h2", "http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let answer = ask(&mut stream, "POST /kp1/demo-v1/echo/t1/json", "over HTTP").await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("over HTTP"), "{answer}");
    let ready = ask(&mut site.dial(&["http/1.1"]).await.unwrap(), "GET /ready", "").await;
    assert!(ready.starts_with("HTTP/1.1 200 "), "{ready}");
}

#[tokio::test(flavor = "multi_thread")]
async fn websocket_is_served_after_https() {
    let world = World::new().await;
    let site = Site::new(&world, true, &[]).await;
    for (version, path) in [(4, "/mqtt"), (5, "/ws"), (5, "/mqtt?token=ignored")] {
        let stream = site.dial(&["http/1.1"]).await.unwrap();
        let mut client = Socket::open(stream, path).await.client(version).hello("c").await;
        publishes(&mut client).await;
        client.disconnect().await;
    }
    let no_websocket = ask(&mut site.dial(&["http/1.1"]).await.unwrap(), "GET /mqtt", "").await;
    assert!(no_websocket.starts_with("HTTP/1.1 426 "), "{no_websocket}");
    assert!(no_websocket.contains("sec-websocket-version: 13"), "{no_websocket}");
    // Without TLS it has a port of its own, which is closed here.
    let plain = reqwest::get(format!("http://{}/mqtt", site.gate.platform.http_address())).await.unwrap();
    assert_eq!(plain.status(), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_shows_its_certificate_and_its_address_counts() {
    let world = World::new().await;
    let ca = authority("acme");
    let ccm = Ccm::start(&world).await;
    ccm.trust(&ca);
    let one = [("kpc.limits.connections_per_address", "1")];
    let site = Site::new(&world, false, &one).await;
    let connector =
        |identity: &Identity| site.served.connector_offering(&[&TLS13], Some(identity), &[AMAZON]);
    let foreign = connector(&device(&authority("foreign"), |_| {}));
    let mut refused = dial(site.port.number(), &foreign).await.unwrap();
    assert_eq!(alert(refused.read_u8().await.unwrap_err()), Some(AlertDescription::UnknownCA));
    let own = connector(&device(&ca, |_| {}));
    let mut client = Client::over(dial(site.port.number(), &own).await.unwrap(), 5).hello("c").await;
    // Its tenant is known.
    let id = client.publish("kp1/other-v1/echo/t1/json", "x", 1).await;
    assert_eq!(client.acknowledged(id).await, 0x87);
    client.message("kp1/other-v1/echo/t1/json/error").await;
    publishes(&mut client).await;
    // At its own port and at this one connections are counted together.
    let mut second = Client::open(site.gate.mqtt, 5).await;
    let answer = second.say_connect("other", None, None, None).await.unwrap();
    assert_eq!(crate::ccm::code(&answer), 0x97);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_message_may_come_in_parts() {
    let world = World::new().await;
    let site = Site::new(&world, true, &[]).await;
    let slow = async |connector: &TlsConnector| {
        let (near, far) = tokio::io::duplex(1 << 16);
        tokio::spawn(drip(far, site.tcp().await));
        let name = "localhost".try_into().unwrap();
        timeout(WITHIN, connector.connect(name, near)).await.unwrap().unwrap()
    };
    let connector = |protocols| site.served.connector_offering(&[&TLS12, &TLS13], None, protocols);
    let mut client = Client::over(slow(&connector(&[AMAZON])).await, 4).hello("c").await;
    let id = client.publish("kp1/demo-v1/echo/t1/json", "x", 1).await;
    assert_eq!(client.acknowledged(id).await, 0);
    let mut stream = slow(&connector(&["http/1.1"])).await;
    stream.write_all(b"GET /ready HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut begin = [0; 13];
    timeout(WITHIN, stream.read_exact(&mut begin)).await.unwrap().unwrap();
    assert_eq!(&begin, b"HTTP/1.1 200 ");
}

fn alert(error: std::io::Error) -> Option<AlertDescription> {
    match error.get_ref()?.downcast_ref()? {
        rustls::Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_served_is_told_and_who_says_nothing_is_not_waited_for() {
    let world = World::new().await;
    let site = Site::new(&world, false, &[("kpc.mqtt.tls.handshake_timeout_s", "1")]).await;
    // There is no HTTPS in this process.
    for protocols in [&["h2"][..], &["http/1.1"], &["MQTT"]] {
        let error = site.dial(protocols).await.unwrap_err();
        assert_eq!(alert(error), Some(AlertDescription::NoApplicationProtocol), "{protocols:?}");
    }
    for garbage in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00", &[0xFF; 3_000]]
    {
        let mut stream = site.tcp().await;
        stream.write_all(garbage).await.unwrap();
        ends(&mut stream).await;
    }
    // Who says nothing, or not enough.
    let mut silent = [site.tcp().await, site.tcp().await];
    silent[1].write_all(&[0x16, 3, 1, 2]).await.unwrap();
    for stream in &mut silent {
        ends(stream).await;
    }
    let mut client = Client::over(site.dial(&[AMAZON]).await.unwrap(), 5).hello("c").await;
    publishes(&mut client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_takes_so_many_places_before_it_says_what_it_wants() {
    let world = World::new().await;
    // Nobody is given up within the test.
    let limits = [("kpc.mqtt.tls.handshake_timeout_s", "600"), ("kpc.limits.connecting_per_address", "2")];
    let site = Site::new(&world, false, &limits).await;
    let (mut first, mut second, mut third) = (site.tcp().await, site.tcp().await, site.tcp().await);
    tokio::select! {
        () = ends(&mut first) => {}
        () = ends(&mut second) => {}
        () = ends(&mut third) => {}
    }
}

/// Waits until the gateway has closed the connection.
async fn ends(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    drop(timeout(WITHIN, stream.read_to_end(&mut rest)).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_process_ends_all_that_came_here() {
    let world = World::new().await;
    let site = Site::new(&world, true, &[]).await;
    let mut silent = site.tcp().await;
    let mut device = Client::over(site.dial(&[AMAZON]).await.unwrap(), 5).hello("a").await;
    publishes(&mut device).await;
    let stream = site.dial(&["http/1.1"]).await.unwrap();
    let mut page = Socket::open(stream, "/mqtt").await.client(5).hello("b").await;
    publishes(&mut page).await;
    timeout(WITHIN, site.gate.platform.stop()).await.unwrap().unwrap();
    for client in [&mut device, &mut page] {
        client.wait(|packet| matches!(packet, crate::client::Packet::Disconnect { .. })).await;
        assert_eq!(client.next_or_end().await, None);
    }
    ends(&mut silent).await;
    assert!(TcpStream::connect(("127.0.0.1", site.port.number())).await.is_err());
}
