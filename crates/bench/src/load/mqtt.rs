//! A device that publishes over MQTT 3.1.1 with QoS 1 as a good client does: what has no acknowledgement when a
//! connection ends is sent again on the next one.

use std::fmt::Write;
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Sleep, timeout};

use super::{Device, InFlight, Load, RETRY_MAX, RETRY_MIN, STALL_AFTER, Sent};
use crate::dial::{self, Hello};
use crate::mqtt::{self, Packet};
use crate::sample;

const CONNECT_WITHIN: Duration = Duration::from_secs(5);
const READ_BUFFER_BYTES: usize = 16 * 1024;
const KEEP_ALIVE_S: u16 = 300;

/// How often a device that hears nothing looks whether the load is over or the gateway has forgotten it.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Publishes until the load is over and every message has its receipt.
pub(super) async fn run(load: Rc<Load>, device: Rc<Device>) {
    let mut session = Session {
        in_flight: InFlight::new(),
        last_packet_id: 0,
        topic_prefix: format!("kp1/{}/dcx/{}/json/", load.plan.app_version, device.endpoint.token),
        topic: String::new(),
        payload: Vec::new(),
        load,
        device,
    };
    let mut retry = RETRY_MIN;
    loop {
        let before = session.device.log.borrow().receipts.len();
        match session.converse().await {
            Ok(()) => return,
            Err(error) => session.load.note_lost_connection(&error),
        }
        if session.load.is_over() && session.in_flight.is_empty() {
            return;
        }
        let progress = session.device.log.borrow().receipts.len() > before;
        retry = if progress { RETRY_MIN } else { (retry * 2).min(RETRY_MAX) };
        tokio::time::sleep(retry).await;
    }
}

/// What a device keeps across its connections.
struct Session {
    load: Rc<Load>,
    device: Rc<Device>,
    in_flight: InFlight,
    last_packet_id: u16,
    /// The topic up to the request id, which is the message's number.
    topic_prefix: String,
    /// Reused for each message.
    topic: String,
    payload: Vec<u8>,
}

/// One connection.
struct Connection {
    stream: TcpStream,
    inbox: BytesMut,
    outbox: Vec<u8>,
    last_heard: Instant,
}

impl Session {
    /// One connection, from CONNECT until all is said (`Ok`) or it is lost.
    async fn converse(&mut self) -> Result<()> {
        let mut connection = timeout(CONNECT_WITHIN, connect(&self.device)).await.with_context(|| {
            format!("no CONNACK from {} within {CONNECT_WITHIN:?}", self.device.gateway)
        })??;
        self.send_again(&mut connection.outbox)?;
        let mut wake = Box::pin(tokio::time::sleep(LOOK_EVERY));
        loop {
            self.fill_window(&mut connection.outbox)?;
            if !connection.outbox.is_empty() {
                connection
                    .stream
                    .write_all(&connection.outbox)
                    .await
                    .context("cannot write to the gateway")?;
                connection.outbox.clear();
            }
            if self.in_flight.is_empty() && self.load.is_over() {
                dial::leave(connection.stream, connection.outbox).await;
                return Ok(());
            }
            let room = self.in_flight.len() < self.load.plan.profile.in_flight();
            set_alarm(&mut wake, self.device.pace.borrow().wake_at().filter(|_| room));
            tokio::select! {
                read = connection.stream.read_buf(&mut connection.inbox) => {
                    ensure!(read.context("cannot read from the gateway")? > 0, "the gateway closed the connection");
                    connection.last_heard = Instant::now();
                    self.handle(&mut connection)?;
                }
                () = &mut wake => {
                    wake.as_mut().reset(tokio::time::Instant::now() + LOOK_EVERY);
                    if !self.in_flight.is_empty() && connection.last_heard.elapsed() > STALL_AFTER {
                        self.load.totals.borrow_mut().stalls += 1;
                        bail!("the gateway neither answered nor closed the connection for {STALL_AFTER:?}");
                    }
                }
            }
        }
    }

    /// Writes what an earlier connection left without an acknowledgement: same message, same timestamp, same request id.
    fn send_again(&mut self, outbox: &mut Vec<u8>) -> Result<()> {
        for index in 0..self.in_flight.len() {
            let packet_id = self.next_packet_id();
            let Some(sent) = self.in_flight.get_mut(index) else { break };
            sent.packet_id = packet_id;
            sent.error = None;
            let number = sent.number;
            self.write(outbox, number, packet_id, true)?;
        }
        Ok(())
    }

    fn fill_window(&mut self, outbox: &mut Vec<u8>) -> Result<()> {
        while self.in_flight.len() < self.load.plan.profile.in_flight() {
            let Some((number, due)) = self.load.take(&self.device) else { break };
            let packet_id = self.next_packet_id();
            self.in_flight.push_back(Sent { number, packet_id, due, error: None });
            self.write(outbox, number, packet_id, false)?;
        }
        Ok(())
    }

    fn write(&mut self, outbox: &mut Vec<u8>, number: u32, packet_id: u16, again: bool) -> Result<()> {
        self.topic.clear();
        write!(self.topic, "{}{number}", self.topic_prefix)?;
        self.payload.clear();
        sample::write(&mut self.payload, number, self.device.endpoint.base_ms + i64::from(number));
        mqtt::write_publish(outbox, &self.topic, packet_id, &self.payload, again)
    }

    /// The window is far smaller than the range of ids, and acknowledgements come in order: an id is free again long
    /// before it comes up.
    fn next_packet_id(&mut self) -> u16 {
        self.last_packet_id = self.last_packet_id.checked_add(1).unwrap_or(1);
        self.last_packet_id
    }

    fn handle(&mut self, connection: &mut Connection) -> Result<()> {
        while let Some((packet, length)) = mqtt::read(&connection.inbox)? {
            match packet {
                Packet::PubAck { packet_id } => self.acknowledged(packet_id)?,
                Packet::Publish { topic, packet_id, payload } => {
                    self.response(topic, payload)?;
                    if let Some(packet_id) = packet_id {
                        mqtt::write_puback(&mut connection.outbox, packet_id);
                    }
                }
                Packet::ConnAck { .. } => bail!("the gateway sent a second CONNACK"),
                Packet::Other => {}
            }
            connection.inbox.advance(length);
        }
        Ok(())
    }

    /// MQTT 3.1.1 has no negative PUBACK: an `/error` before it turns it into a refusal.
    fn acknowledged(&mut self, packet_id: u16) -> Result<()> {
        let index =
            self.in_flight.iter().position(|sent| sent.packet_id == packet_id).with_context(|| {
                format!("the gateway acknowledged packet {packet_id}, which was not sent")
            })?;
        let Some(sent) = self.in_flight.remove(index) else { return Ok(()) };
        match sent.error {
            None => self.load.note_receipt(&self.device, &sent),
            Some(status) => self.load.note_refusal(status),
        }
        Ok(())
    }

    fn response(&mut self, topic: &str, payload: &[u8]) -> Result<()> {
        let response = topic.strip_prefix(&self.topic_prefix).and_then(|rest| rest.split_once('/'));
        let (number, kind) =
            response.with_context(|| format!("a response on the topic {topic}, which was not asked"))?;
        let number: u32 = number.parse().with_context(|| format!("a response on the topic {topic}"))?;
        match kind {
            "status" => self.load.totals.borrow_mut().status_responses += 1,
            "error" => self.error(number, payload),
            _ => bail!("a response on the topic {topic}, which was not asked"),
        }
        Ok(())
    }

    fn error(&mut self, number: u32, payload: &[u8]) {
        let status = serde_json::from_slice(payload).map_or(0, |body: ErrorBody| body.status_code);
        self.load.note_reason(status, payload);
        match self.in_flight.iter_mut().find(|sent| sent.number == number) {
            Some(sent) => {
                sent.error = Some(status);
                if status >= 500 {
                    self.load.note_failure(status);
                }
            }
            None => self.load.note_contradiction(&self.device, number),
        }
    }
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct ErrorBody {
    status_code: u16,
}

async fn connect(device: &Device) -> Result<Connection> {
    let mut stream = TcpStream::connect(device.gateway)
        .await
        .with_context(|| format!("cannot connect to the gateway at {}", device.gateway))?;
    stream.set_nodelay(true)?;
    let mut inbox = BytesMut::with_capacity(READ_BUFFER_BYTES);
    let hello =
        Hello { client_id: &device.client_id, login: device.login.as_ref(), keep_alive_s: KEEP_ALIVE_S };
    dial::greet(&mut stream, &mut inbox, &hello).await?;
    Ok(Connection { stream, inbox, outbox: Vec::new(), last_heard: Instant::now() })
}

/// Wakes earlier when a message is due earlier.
fn set_alarm(wake: &mut Pin<Box<Sleep>>, due: Option<Instant>) {
    if let Some(due) = due.map(tokio::time::Instant::from_std)
        && due < wake.deadline()
    {
        wake.as_mut().reset(due);
    }
}
