//! A device that posts over HTTP/1.1 on a connection that stays open, one message at a time.

use std::io::Write;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Device, Load, RETRY_MAX, RETRY_MIN, STALL_AFTER, Sent};
use crate::sample;

const CONNECT_WITHIN: Duration = Duration::from_secs(5);
const READ_BUFFER_BYTES: usize = 4 * 1024;
/// The longest response that is read, head and body.
const RESPONSE_BYTES_MAX: usize = 64 * 1024;
/// How often a device that has nothing to send looks whether the load is over.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Posts until the load is over and its last message is settled.
pub(super) async fn run(load: Rc<Load>, device: Rc<Device>) {
    let mut connection = None;
    let mut payload = Vec::new();
    while let Some(sent) = next(&load, &device).await {
        payload.clear();
        sample::write(&mut payload, sent.number, device.endpoint.base_ms + i64::from(sent.number));
        post_until_settled(&load, &device, &mut connection, &sent, &payload).await;
    }
}

/// Waits for the time of the next message; `None` when the load is over.
async fn next(load: &Load, device: &Device) -> Option<Sent> {
    loop {
        if let Some((number, due)) = load.take(device) {
            return Some(Sent { number, packet_id: 0, due, error: None });
        }
        if load.is_over() {
            return None;
        }
        let look = tokio::time::Instant::now() + LOOK_EVERY;
        let due = device.pace.borrow().wake_at().map(tokio::time::Instant::from_std);
        tokio::time::sleep_until(due.map_or(look, |due| due.min(look))).await;
    }
}

async fn post_until_settled(
    load: &Load,
    device: &Device,
    connection: &mut Option<Connection>,
    sent: &Sent,
    payload: &[u8],
) {
    let mut retry = RETRY_MIN;
    loop {
        match post(load, device, connection, payload).await {
            Ok(Answer { status: 200, .. }) => return load.note_receipt(device, sent),
            Ok(Answer { status, body }) => {
                load.note_reason(status, &body);
                if status < 500 && status != 429 {
                    return load.note_refusal(status);
                }
                load.note_failure(status);
            }
            Err(error) => {
                *connection = None;
                load.note_lost_connection(&error);
            }
        }
        tokio::time::sleep(retry).await;
        retry = (retry * 2).min(RETRY_MAX);
    }
}

/// Posts on the connection, or on a new one.
async fn post(
    load: &Load,
    device: &Device,
    connection: &mut Option<Connection>,
    payload: &[u8],
) -> Result<Answer> {
    if connection.is_none() {
        let opened = timeout(CONNECT_WITHIN, Connection::open(load, device)).await;
        *connection = Some(opened.with_context(|| format!("no connection to {} in time", device.gateway))??);
    }
    let Some(open) = connection else { bail!("there is no connection") };
    match timeout(STALL_AFTER, open.post(payload)).await {
        Ok(answer) => answer,
        Err(_) => {
            load.totals.borrow_mut().stalls += 1;
            bail!("no response within {STALL_AFTER:?}")
        }
    }
}

struct Answer {
    status: u16,
    body: Vec<u8>,
}

struct Connection {
    stream: TcpStream,
    /// The request line and the headers up to the value of Content-Length.
    head: Vec<u8>,
    inbox: BytesMut,
    outbox: Vec<u8>,
}

impl Connection {
    async fn open(load: &Load, device: &Device) -> Result<Self> {
        let stream = TcpStream::connect(device.gateway)
            .await
            .with_context(|| format!("cannot connect to the gateway at {}", device.gateway))?;
        stream.set_nodelay(true)?;
        let head = format!(
            "POST /kp1/{}/dcx/{}/json HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: ",
            load.plan.app_version, device.endpoint.token, device.gateway
        );
        let inbox = BytesMut::with_capacity(READ_BUFFER_BYTES);
        Ok(Self { stream, head: head.into_bytes(), inbox, outbox: Vec::new() })
    }

    async fn post(&mut self, payload: &[u8]) -> Result<Answer> {
        self.outbox.clear();
        self.outbox.extend_from_slice(&self.head);
        write!(self.outbox, "{}\r\n\r\n", payload.len())?;
        self.outbox.extend_from_slice(payload);
        self.stream.write_all(&self.outbox).await.context("cannot write the request")?;
        loop {
            ensure!(
                self.stream.read_buf(&mut self.inbox).await.context("cannot read the response")? > 0,
                "the gateway closed the connection"
            );
            if let Some((answer, length)) = read(&self.inbox)? {
                self.inbox.advance(length);
                return Ok(answer);
            }
            ensure!(self.inbox.len() <= RESPONSE_BYTES_MAX, "a response of over {RESPONSE_BYTES_MAX} bytes");
        }
    }
}

/// Reads a response that has a Content-Length, and its length; `None` when it is not complete yet.
fn read(bytes: &[u8]) -> Result<Option<(Answer, usize)>> {
    let Some(head_end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(bytes.get(..head_end).unwrap_or_default())?;
    let mut lines = head.split("\r\n");
    let status_line = lines.next().unwrap_or_default();
    let status = status_line
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3)?.parse().ok())
        .with_context(|| format!("the gateway answered with {status_line:?} instead of a status line"))?;
    let body_length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .context("the gateway answered without Content-Length")?
        .1
        .trim()
        .parse::<usize>()
        .context("the gateway answered with a Content-Length that is no number")?;
    let body_start = head_end + 4;
    let Some(body) = bytes.get(body_start..body_start.saturating_add(body_length)) else { return Ok(None) };
    Ok(Some((Answer { status, body: body.to_vec() }, body_start + body_length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_read_once_it_is_complete() {
        let text = b"HTTP/1.1 503 Service Unavailable\r\ncontent-LENGTH: 2\r\nRetry-After: 1\r\n\r\n{}HTTP/1.1 200 OK";
        let (answer, length) = read(text).unwrap().unwrap();
        assert_eq!((answer.status, answer.body.as_slice()), (503, &b"{}"[..]));
        assert_eq!(&text[length..], b"HTTP/1.1 200 OK");
        for cut in 0..length {
            assert!(read(&text[..cut]).unwrap().is_none(), "cut at {cut}");
        }
        assert!(read(b"HTTP/1.1 200 OK\r\n\r\n").is_err(), "no length");
        assert!(read(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n").is_err());
        assert!(read(b"SSH-2.0\r\n\r\n").is_err());
    }
}
