//! The listener and the threads behind it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use ntex::io::IoConfig;
use ntex::rt::{DefaultRuntime, System};
use ntex::server::Server as NtexServer;
use ntex::service::cfg::SharedCfg;
use ntex::time::Seconds;
use ntex::util::BytePageSize;
use ntex_mqtt::{Control, MqttServer, MqttServiceConfig, QoS, v3, v5};
use tokio::net::TcpSocket;
use tokio::sync::oneshot;

use super::drain::Local;
use super::publish::{publish_v3, publish_v5};
use super::session::{Closed, Session, connect_v3, connect_v5};
use super::subscribe::{packet_v3, packet_v5};
use crate::config::Config;
use crate::gateway::Gateway;

/// How slowly a packet may come in: so many bytes in each period, and all of it in so many seconds.
const FRAME_PERIOD: Seconds = Seconds(5);
const FRAME_LONGEST: Seconds = Seconds(120);
const FRAME_BYTES: u32 = 256;
/// What a packet holds beside its payload, at most: the topic and the properties.
const ENVELOPE_BYTES: u32 = 128 * 1024;
/// How long clients may take to read their farewell when the gateway stops.
pub(crate) const CLOSE_PATIENCE: Duration = Duration::from_secs(1);
/// How long worker threads may take to close their connections.
const STOP_PATIENCE: Seconds = Seconds(2);

/// The running MQTT listener.
pub(crate) struct Server {
    address: SocketAddr,
    control: NtexServer,
    ended: oneshot::Receiver<()>,
}

impl Server {
    /// Where MQTT is served; with port 0 in the configuration the port that was given.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts no more connections; those that there are stay.
    pub(crate) fn pause(&self) -> impl Future<Output = ()> + Send + use<> {
        self.control.pause()
    }

    /// Ends all connections and threads.
    pub(crate) async fn stop(self) {
        self.control.stop(true).await;
        // The sender is dropped when the thread has ended.
        drop(self.ended.await);
    }

    /// Waits until the server has ended by itself, which it must not.
    pub(crate) async fn ended(&mut self) {
        drop((&mut self.ended).await);
    }
}

/// Binds the listener and starts the threads.
pub(crate) async fn serve(gateway: Arc<Gateway>) -> anyhow::Result<Server> {
    let listen = gateway.config.mqtt.listen;
    let listener = bind(listen, gateway.config.mqtt.backlog)
        .with_context(|| format!("cannot listen on {listen}; free the port or set kpc.mqtt.listen"))?;
    let address = listener.local_addr()?;
    let (started, starting) = oneshot::channel();
    let (ending, ended) = oneshot::channel();
    std::thread::Builder::new().name("kpc-mqtt".to_owned()).spawn(move || {
        System::build().name("kpc-mqtt").disable_signals().build(DefaultRuntime).block_on(async move {
            let server = build(gateway, listener);
            let is_running = server.is_ok();
            let control = server.as_ref().map(Clone::clone).map_err(|error| anyhow::anyhow!("{error}"));
            if started.send(control).is_ok()
                && is_running
                && let Ok(server) = server
            {
                // A server that has stopped always says so in the same way.
                drop(server.await);
            }
        });
        drop(ending);
    })?;
    let control = starting.await.context("the MQTT thread ended while it started")??;
    Ok(Server { address, control, ended })
}

fn bind(listen: SocketAddr, backlog: u32) -> std::io::Result<std::net::TcpListener> {
    let socket = if listen.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(listen)?;
    socket.listen(backlog)?.into_std()
}

fn build(gateway: Arc<Gateway>, listener: std::net::TcpListener) -> std::io::Result<NtexServer> {
    let settings = settings(&gateway.config);
    let workers = gateway.config.mqtt.workers();
    let server = NtexServer::builder()
        .name("kpc-mqtt")
        .workers(workers)
        .disable_signals()
        .graceful_shutdown_timeout(STOP_PATIENCE)
        .listen("mqtt", listener, settings, async move |_: &()| {
            let local = Local::start(gateway.clone());
            let (local_v3, local_v5) = (local.clone(), local);
            MqttServer::new()
                .v3(v3::MqttServer::new(async |session: &v3::Session<Session>, publish: v3::Publish| {
                    publish_v3(session, publish).await
                })
                .protocol(async |session: &v3::Session<Session>, message: v3::ProtocolMessage| {
                    packet_v3(session, message).await
                })
                .control(async |session: &v3::Session<Session>, control: Control<Closed>| {
                    end(session, &control);
                    Ok::<_, Closed>(None)
                })
                .build(async move |connect: v3::Connect| connect_v3(&local_v3, connect).await))
                .v5(v5::MqttServer::new(async |session: &v5::Session<Session>, publish: v5::Publish| {
                    publish_v5(session, publish).await
                })
                .protocol(async |session: &v5::Session<Session>, message: v5::ProtocolMessage| {
                    packet_v5(session, message).await
                })
                .control(async |session: &v5::Session<Session>, control: Control<Closed>| {
                    end(session, &control);
                    Ok::<_, Closed>(None)
                })
                .build(async move |connect: v5::Connect| connect_v5(&local_v5, connect).await))
        })?
        .run();
    Ok(server)
}

fn end(session: &Session, control: &Control<Closed>) {
    if let Control::Stop(reason) = control {
        tracing::debug!(client_id = &*session.connection.client_id, ?reason, "a connection ended");
        session.end();
    }
}

/// The library's limits, from ours.
fn settings(config: &Config) -> SharedCfg {
    let limits = &config.limits;
    // A payload somewhat over our limit is read and refused with its own error; a packet far above ends the connection.
    let packet_max = limits.payload_bytes.saturating_mul(2).saturating_add(ENVELOPE_BYTES);
    let mqtt = MqttServiceConfig::new()
        .set_max_qos(QoS::ExactlyOnce)
        .set_max_size(packet_max)
        // The gateway limits how many messages are worked on, after they are out of reach of the connection's end; what
        // limits reading is the queue. MQTT 5 clients are told the number in CONNACK.
        .set_max_receive(0)
        .set_max_receive_size(limits.in_flight_bytes_per_connection)
        // Acknowledgements leave in order; with a shorter queue a slow message would hold up PINGRESP.
        .set_max_queue(usize::from(limits.in_flight_per_connection) * 4)
        .set_max_send(limits.unacknowledged_per_connection)
        .set_connect_timeout(Seconds(config.mqtt.connect_timeout_s))
        .protocol_version_timeout(Seconds(config.mqtt.connect_timeout_s))
        // A client that publishes and disconnects at once has published.
        .set_handle_qos_after_disconnect(Some(QoS::ExactlyOnce))
        // Shared subscriptions are denied one by one, not by closing the connection.
        .set_check_subs_availability(false);
    let io = IoConfig::new()
        .set_write_timeout(Seconds(config.mqtt.write_timeout_s))
        .set_frame_read_rate(FRAME_PERIOD, FRAME_LONGEST, FRAME_BYTES)
        .set_read_size(BytePageSize::Size4, BytePageSize::Size16)
        .set_write_size(BytePageSize::Size4);
    SharedCfg::new("mqtt").add(mqtt).add(io).into()
}
