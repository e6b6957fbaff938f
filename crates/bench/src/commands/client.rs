//! An MQTT 3.1.1 client that answers what it gets at once: the device of a command, and the application at a broker.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::ops::Deref;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::dial::{self, Hello, Sources};
use crate::mqtt::{self, Packet};
use crate::rest::Login;

const READ_BUFFER_BYTES: usize = 16 * 1024;
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(15);
/// A client that is not measured to its end says nothing for a while.
const KEEP_ALIVE_S: u16 = 600;

type Handler = Box<dyn Fn(&Session, &[u8]) -> Result<()>>;

/// A connected client, until it is dropped.
pub(super) struct Client {
    session: Rc<Session>,
    task: JoinHandle<()>,
}

/// What a client and whoever handles its messages share.
#[derive(Default)]
pub(super) struct Session {
    outbox: RefCell<Vec<u8>>,
    outgoing: Notify,
    last_packet_id: Cell<u16>,
    acknowledged: Cell<bool>,
    acknowledgement: Notify,
    handler: RefCell<Option<Handler>>,
    failure: RefCell<Option<anyhow::Error>>,
}

impl Client {
    /// Connects; what follows happens in a task of this thread.
    pub(super) async fn connect(
        sources: &Sources,
        server: SocketAddr,
        client_id: &str,
        login: Option<&Login>,
    ) -> Result<Self> {
        let mut stream = sources.reach(server).await?;
        let mut inbox = BytesMut::with_capacity(READ_BUFFER_BYTES);
        dial::greet(&mut stream, &mut inbox, &Hello { client_id, login, keep_alive_s: KEEP_ALIVE_S }).await?;
        let session = Rc::<Session>::default();
        let task = tokio::task::spawn_local({
            let session = session.clone();
            async move {
                if let Err(error) = session.converse(stream, inbox).await {
                    *session.failure.borrow_mut() = Some(error);
                    session.acknowledgement.notify_one();
                }
            }
        });
        Ok(Self { session, task })
    }
}

impl Deref for Client {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Session {
    /// Has the payload of each message handled.
    pub(super) fn on_message(&self, handler: impl Fn(&Self, &[u8]) -> Result<()> + 'static) {
        *self.handler.borrow_mut() = Some(Box::new(handler));
    }

    /// Publishes with QoS 1.
    pub(super) fn publish(&self, topic: &str, payload: &[u8]) -> Result<()> {
        let packet_id = self.next_packet_id();
        mqtt::write_publish(&mut self.outbox.borrow_mut(), topic, packet_id, payload, false)?;
        self.outgoing.notify_one();
        Ok(())
    }

    /// Subscribes with QoS 1.
    pub(super) fn subscribe(&self, filter: &str) -> Result<()> {
        let packet_id = self.next_packet_id();
        mqtt::write_subscribe(&mut self.outbox.borrow_mut(), filter, packet_id)?;
        self.outgoing.notify_one();
        Ok(())
    }

    /// Waits until the first of what was published or subscribed is acknowledged.
    pub(super) async fn acknowledged(&self) -> Result<()> {
        let waiting = async {
            while !self.acknowledged.get() {
                if let Some(error) = self.failure.take() {
                    return Err(error);
                }
                self.acknowledgement.notified().await;
            }
            Ok(())
        };
        tokio::time::timeout(ACKNOWLEDGED_WITHIN, waiting).await.context("no acknowledgement in time")?
    }

    fn next_packet_id(&self) -> u16 {
        let id = self.last_packet_id.get().checked_add(1).unwrap_or(1);
        self.last_packet_id.set(id);
        id
    }

    async fn converse(&self, stream: TcpStream, mut inbox: BytesMut) -> Result<()> {
        let (mut reader, mut writer) = stream.into_split();
        loop {
            self.handle(&mut inbox)?;
            let outbox = self.outbox.take();
            if !outbox.is_empty() {
                writer.write_all(&outbox).await.context("cannot write")?;
                continue;
            }
            tokio::select! {
                read = reader.read_buf(&mut inbox) => {
                    ensure!(read.context("cannot read")? > 0, "the server closed the connection");
                }
                () = self.outgoing.notified() => {}
            }
        }
    }

    /// Handles all packets that are complete.
    fn handle(&self, inbox: &mut BytesMut) -> Result<()> {
        while let Some((packet, length)) = mqtt::read(inbox)? {
            match packet {
                Packet::Publish { packet_id, payload, .. } => {
                    if let Some(packet_id) = packet_id {
                        mqtt::write_puback(&mut self.outbox.borrow_mut(), packet_id);
                    }
                    if let Some(handler) = &*self.handler.borrow() {
                        handler(self, payload)?;
                    }
                }
                Packet::PubAck { .. } | Packet::Other => {
                    self.acknowledged.set(true);
                    self.acknowledgement.notify_one();
                }
                Packet::ConnAck { .. } => bail!("a second CONNACK"),
            }
            inbox.advance(length);
        }
        Ok(())
    }
}
