//! A small MQTT client, 3.1.1 and 5, that does only what it is told: no acknowledgement by itself, no reconnection.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longer than anything that is waited for in a test.
const PATIENCE: Duration = Duration::from_secs(20);

/// MQTT 5 properties: identifier and encoded value.
pub(crate) type Properties = Vec<(u8, Vec<u8>)>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Packet {
    ConnAck { code: u8, properties: Properties },
    Publish { topic: String, payload: Vec<u8>, qos: u8, id: u16, properties: Properties },
    PubAck { id: u16, code: u8, reason: String },
    PubRec { id: u16, code: u8 },
    PubRel { id: u16 },
    PubComp { id: u16 },
    SubAck { id: u16, codes: Vec<u8> },
    UnsubAck { id: u16 },
    PingResp,
    Disconnect { code: u8 },
}

#[derive(Default, Clone)]
pub(crate) struct Will {
    pub(crate) topic: String,
    pub(crate) payload: String,
    pub(crate) delay_s: u32,
}

/// What carries MQTT.
pub(crate) trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

pub(crate) struct Client {
    stream: Box<dyn Wire>,
    version: u8,
    next_id: u16,
    input: Vec<u8>,
    put_back: VecDeque<Packet>,
}

fn string(text: &[u8]) -> Vec<u8> {
    let mut bytes = u16::try_from(text.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend_from_slice(text);
    bytes
}

fn length(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let byte = u8::try_from(number % 128).unwrap();
        number /= 128;
        bytes.push(if number > 0 { byte | 0x80 } else { byte });
        if number == 0 {
            return bytes;
        }
    }
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    [&[first], length(body.len()).as_slice(), body].concat()
}

/// Encodes properties: string values get their length, everything else is taken as it is.
fn encode(properties: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let body: Vec<u8> =
        properties.iter().flat_map(|(id, value)| [&[*id], value.as_slice()].concat()).collect();
    [length(body.len()), body].concat()
}

/// A property with a text or binary value.
pub(crate) fn text(id: u8, value: &str) -> (u8, Vec<u8>) {
    (id, string(value.as_bytes()))
}

/// A user property.
pub(crate) fn user_property(name: &str, value: &str) -> (u8, Vec<u8>) {
    (0x26, [string(name.as_bytes()), string(value.as_bytes())].concat())
}

impl Client {
    /// Connects and expects to be accepted.
    pub(crate) async fn connect(port: u16, version: u8, client_id: &str) -> Self {
        let (client, packet) = Self::try_connect(port, version, client_id, None).await;
        assert!(matches!(packet, Packet::ConnAck { code: 0, .. }), "{packet:?}");
        client
    }

    /// A connection on which nothing has been said yet.
    pub(crate) async fn open(port: u16, version: u8) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream, version)
    }

    /// A connection over something else, on which nothing has been said yet.
    pub(crate) fn over(stream: impl Wire + 'static, version: u8) -> Self {
        let stream = Box::new(stream);
        Self { stream, version, next_id: 0, input: Vec::new(), put_back: VecDeque::new() }
    }

    /// Says CONNECT and expects to be accepted.
    pub(crate) async fn hello(mut self, client_id: &str) -> Self {
        let (version, name) = (self.version, string(client_id.as_bytes()));
        let properties: &[u8] = if version == 5 { &[0] } else { &[] };
        let body = [&string(b"MQTT"), &[version, 0b10, 0, 60][..], properties, &name].concat();
        self.send(&packet(0x10, &body)).await;
        let answer = self.next().await;
        assert!(matches!(answer, Packet::ConnAck { code: 0, .. }), "{answer:?}");
        self
    }

    pub(crate) async fn try_connect(
        port: u16,
        version: u8,
        client_id: &str,
        will: Option<Will>,
    ) -> (Self, Packet) {
        let mut client = Self::open(port, version).await;
        let answer = client.say_connect(client_id, None, None, will).await;
        (client, answer.expect("the connection was closed"))
    }

    /// Says CONNECT; the answer, unless the connection is closed without one.
    pub(crate) async fn say_connect(
        &mut self,
        client_id: &str,
        username: Option<&[u8]>,
        password: Option<&[u8]>,
        will: Option<Will>,
    ) -> Option<Packet> {
        let flag = |is_there: bool, flags: u8| if is_there { flags } else { 0 };
        let flags = 0b10
            | flag(will.is_some(), 0b1100)
            | flag(password.is_some(), 0x40)
            | flag(username.is_some(), 0x80);
        let mut body = [string(b"MQTT"), vec![self.version, flags, 0, 60]].concat();
        if self.version == 5 {
            body.push(0);
        }
        body.extend(string(client_id.as_bytes()));
        if let Some(will) = will {
            if self.version == 5 {
                body.extend(encode(&[(0x18, will.delay_s.to_be_bytes().to_vec())]));
            }
            body.extend(string(will.topic.as_bytes()));
            body.extend(string(will.payload.as_bytes()));
        }
        for text in [username, password].into_iter().flatten() {
            body.extend(string(text));
        }
        self.send(&packet(0x10, &body)).await;
        self.next_or_end().await
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    fn id(&mut self) -> u16 {
        self.next_id += 1;
        self.next_id
    }

    /// Publishes and returns the packet id.
    pub(crate) async fn publish(&mut self, topic: &str, payload: impl AsRef<[u8]>, qos: u8) -> u16 {
        self.publish_with(topic, payload, qos, &[]).await
    }

    pub(crate) async fn publish_with(
        &mut self,
        topic: &str,
        payload: impl AsRef<[u8]>,
        qos: u8,
        properties: &[(u8, Vec<u8>)],
    ) -> u16 {
        let id = self.id();
        let mut body = string(topic.as_bytes());
        if qos > 0 {
            body.extend(id.to_be_bytes());
        }
        if self.version == 5 {
            body.extend(encode(properties));
        }
        body.extend(payload.as_ref());
        self.send(&packet(0x30 | qos << 1, &body)).await;
        id
    }

    /// Subscribes and returns the codes of the SUBACK.
    pub(crate) async fn subscribe(&mut self, filters: &[&str], qos: u8) -> Vec<u8> {
        let id = self.id();
        let mut body = id.to_be_bytes().to_vec();
        if self.version == 5 {
            body.push(0);
        }
        for filter in filters {
            body.extend(string(filter.as_bytes()));
            body.push(qos);
        }
        self.send(&packet(0x82, &body)).await;
        match self.wait(|packet| matches!(packet, Packet::SubAck { .. })).await {
            Packet::SubAck { id: answered, codes } if answered == id => codes,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn unsubscribe(&mut self, filter: &str) {
        let id = self.id();
        let mut body = id.to_be_bytes().to_vec();
        if self.version == 5 {
            body.push(0);
        }
        body.extend(string(filter.as_bytes()));
        self.send(&packet(0xA2, &body)).await;
        let answer = self.wait(|packet| matches!(packet, Packet::UnsubAck { .. })).await;
        assert_eq!(answer, Packet::UnsubAck { id });
    }

    pub(crate) async fn ping(&mut self) {
        self.send(&[0xC0, 0]).await;
    }

    pub(crate) async fn ack(&mut self, id: u16) {
        self.send(&packet(0x40, &id.to_be_bytes())).await;
    }

    pub(crate) async fn release(&mut self, id: u16) {
        self.send(&packet(0x62, &id.to_be_bytes())).await;
    }

    pub(crate) async fn received(&mut self, id: u16) {
        self.send(&packet(0x50, &id.to_be_bytes())).await;
    }

    pub(crate) async fn complete(&mut self, id: u16) {
        self.send(&packet(0x70, &id.to_be_bytes())).await;
    }

    /// Says goodbye and closes the connection.
    pub(crate) async fn disconnect(mut self) {
        self.send(&[0xE0, 0]).await;
        self.stream.shutdown().await.unwrap();
    }

    /// The next packet.
    pub(crate) async fn next(&mut self) -> Packet {
        self.next_within(PATIENCE).await.expect("the connection was closed")
    }

    /// The next packet; none when the connection is closed.
    pub(crate) async fn next_or_end(&mut self) -> Option<Packet> {
        self.next_within(PATIENCE).await
    }

    async fn next_within(&mut self, patience: Duration) -> Option<Packet> {
        if let Some(packet) = self.put_back.pop_front() {
            return Some(packet);
        }
        loop {
            if let Some((packet, used)) = decode(&self.input, self.version) {
                self.input.drain(..used);
                return Some(packet);
            }
            let mut chunk = [0; 4096];
            let read = timeout(patience, self.stream.read(&mut chunk)).await.expect("no packet came in time");
            match read {
                Ok(0) | Err(_) => return None,
                Ok(count) => self.input.extend_from_slice(&chunk[..count]),
            }
        }
    }

    /// Waits for a packet; those that come before it are kept.
    pub(crate) async fn wait(&mut self, wanted: impl Fn(&Packet) -> bool) -> Packet {
        let mut others = VecDeque::new();
        loop {
            let packet = self.next().await;
            if wanted(&packet) {
                others.append(&mut self.put_back);
                self.put_back = others;
                return packet;
            }
            others.push_back(packet);
        }
    }

    /// Waits for a message on a topic and acknowledges it.
    pub(crate) async fn message(&mut self, wanted: &str) -> String {
        match self.wait(|packet| matches!(packet, Packet::Publish { topic, .. } if topic == wanted)).await {
            Packet::Publish { payload, qos, id, .. } => {
                if qos == 1 {
                    self.ack(id).await;
                }
                String::from_utf8(payload).unwrap()
            }
            other => panic!("{other:?}"),
        }
    }

    /// Waits for PUBACK; returns its reason code.
    pub(crate) async fn acknowledged(&mut self, wanted: u16) -> u8 {
        match self.wait(|packet| matches!(packet, Packet::PubAck { id, .. } if *id == wanted)).await {
            Packet::PubAck { code, .. } => code,
            other => panic!("{other:?}"),
        }
    }

    /// Nothing more has come when the answer to a PINGREQ is here: a way to see that something does not happen.
    pub(crate) async fn is_silent(&mut self) -> bool {
        self.ping().await;
        self.next().await == Packet::PingResp
    }
}

fn decode(input: &[u8], version: u8) -> Option<(Packet, usize)> {
    let first = *input.first()?;
    let (mut size, mut at) = (0, 1);
    loop {
        let byte = *input.get(at)?;
        size |= usize::from(byte & 0x7F) << (7 * (at - 1));
        at += 1;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let body = input.get(at..at + size)?;
    Some((read(first, body, version), at + size))
}

fn read(first: u8, body: &[u8], version: u8) -> Packet {
    let mut rest = body;
    let kind = first >> 4;
    match kind {
        2 => {
            let code = body[1];
            rest = &rest[2..];
            let properties = if version == 5 { take_properties(&mut rest) } else { Vec::new() };
            Packet::ConnAck { code, properties }
        }
        3 => {
            let topic = String::from_utf8(take_string(&mut rest)).unwrap();
            let qos = first >> 1 & 3;
            let id = if qos > 0 { take_u16(&mut rest) } else { 0 };
            let properties = if version == 5 { take_properties(&mut rest) } else { Vec::new() };
            Packet::Publish { topic, payload: rest.to_vec(), qos, id, properties }
        }
        4..=7 => {
            let id = take_u16(&mut rest);
            let code = rest.first().copied().unwrap_or(0);
            let properties = if rest.len() > 1 { take_properties(&mut &rest[1..]) } else { Vec::new() };
            let reason = properties.into_iter().find(|(id, _)| *id == 0x1F);
            let reason = reason.map(|(_, value)| String::from_utf8(value).unwrap()).unwrap_or_default();
            match kind {
                4 => Packet::PubAck { id, code, reason },
                5 => Packet::PubRec { id, code },
                6 => Packet::PubRel { id },
                _ => Packet::PubComp { id },
            }
        }
        9 => {
            let id = take_u16(&mut rest);
            if version == 5 {
                take_properties(&mut rest);
            }
            Packet::SubAck { id, codes: rest.to_vec() }
        }
        11 => Packet::UnsubAck { id: take_u16(&mut rest) },
        13 => Packet::PingResp,
        14 => Packet::Disconnect { code: body.first().copied().unwrap_or(0) },
        _ => panic!("packet {first:x} {body:?}"),
    }
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, left) = rest.split_at(count);
    *rest = left;
    taken
}

fn take_u16(rest: &mut &[u8]) -> u16 {
    u16::from_be_bytes(take(rest, 2).try_into().unwrap())
}

fn take_string(rest: &mut &[u8]) -> Vec<u8> {
    let count = take_u16(rest);
    take(rest, count.into()).to_vec()
}

fn take_properties(rest: &mut &[u8]) -> Properties {
    let (mut size, mut shift) = (0, 0);
    loop {
        let byte = take(rest, 1)[0];
        size |= usize::from(byte & 0x7F) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let mut body = take(rest, size);
    let mut properties = Vec::new();
    while !body.is_empty() {
        let id = take(&mut body, 1)[0];
        let value = match id {
            0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28 | 0x29 | 0x2A => take(&mut body, 1).to_vec(),
            0x13 | 0x21 | 0x22 | 0x23 => take(&mut body, 2).to_vec(),
            0x02 | 0x11 | 0x18 | 0x27 => take(&mut body, 4).to_vec(),
            0x26 => [take_string(&mut body), vec![b'='], take_string(&mut body)].concat(),
            _ => take_string(&mut body),
        };
        properties.push((id, value));
    }
    properties
}
