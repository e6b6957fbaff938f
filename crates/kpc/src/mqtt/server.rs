//! The listeners and the threads behind them.

use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use ntex::http::HttpServiceConfig;
use ntex::io::{IoBoxed, IoConfig};
use ntex::rt::{DefaultRuntime, System};
use ntex::server::{NoConfig, Server as NtexServer, ServiceConfig, ServiceRuntime};
use ntex::service::State;
use ntex::service::cfg::SharedCfg;
use ntex::time::Seconds;
use ntex::util::BytePageSize;
use ntex::{Pipeline, Service, fn_service};
use ntex_mqtt::{Control, MqttServer, MqttServiceConfig, QoS, v3, v5};
use tokio::net::TcpSocket;
use tokio::sync::oneshot;

use super::arrival::{Arrival, Reception};
use super::drain::Local;
use super::handover::Handover;
use super::publish::{publish_v3, publish_v5};
use super::session::{Closed, Session, connect_v3, connect_v5, packet_max};
use super::subscribe::{packet_v3, packet_v5};
use super::tls::Acceptor;
use super::websocket;
use crate::config::{Config, Mqtt};
use crate::gateway::Gateway;
use crate::peer::Transport;

/// How many times the messages that are worked on may have been read: acknowledgements leave in order, and with a
/// shorter queue one slow message would hold up PINGRESP.
const READ_AHEAD: usize = 4;
/// How slowly a packet may come in: so many bytes in each period, and all of it in so many seconds.
const FRAME_PERIOD: Seconds = Seconds(5);
const FRAME_LONGEST: Seconds = Seconds(120);
const FRAME_BYTES: u32 = 256;
/// The longest CONNECT in bytes: a will of 64 KiB on a long topic, and the rest is short. It is kept until it is whole,
/// and it comes from anybody.
const CONNECT_BYTES_MAX: u32 = 128 * 1024;
/// Connections of one thread above its part of those that are allowed: they are told why they are refused, or have not
/// said CONNECT yet.
const ACCEPT_RESERVE: usize = 1_024;
/// How long clients may take to read their farewell when the gateway stops.
pub(crate) const CLOSE_PATIENCE: Duration = Duration::from_secs(1);
/// How long worker threads may take to close their connections.
const STOP_PATIENCE: Seconds = Seconds(2);

/// The running MQTT listeners.
pub(crate) struct Server {
    addresses: Vec<(Transport, SocketAddr)>,
    handover: Handover,
    control: NtexServer,
    ended: oneshot::Receiver<()>,
}

impl Server {
    /// Where MQTT is served; with port 0 in the configuration the port that was given.
    pub(crate) fn addresses(&self) -> &[(Transport, SocketAddr)] {
        &self.addresses
    }

    /// Where sockets are brought that came in elsewhere.
    pub(crate) fn handover(&self) -> Handover {
        self.handover.clone()
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

/// Binds the listeners and starts the threads. `certificates` are those of the configuration; without them there is no
/// TLS.
pub(crate) async fn serve(
    gateway: Arc<Gateway>,
    certificates: Option<Arc<::tls::Certificates>>,
) -> anyhow::Result<Server> {
    let acceptor = match certificates {
        Some(certificates) => {
            let tls = &gateway.config.mqtt.tls;
            Some(Acceptor::new(tls, certificates, gateway.authorities.clone())?)
        }
        None => None,
    };
    let listeners = bind_all(&gateway.config.mqtt, acceptor.is_some())?;
    let addresses = listeners
        .iter()
        .map(|(transport, listener)| Ok((*transport, listener.local_addr()?)))
        .collect::<std::io::Result<_>>()?;
    let handover = Handover::new();
    let handed = handover.clone();
    let (started, starting) = oneshot::channel();
    let (ending, ended) = oneshot::channel();
    std::thread::Builder::new().name("kpc-mqtt".to_owned()).spawn(move || {
        System::build().name("kpc-mqtt").disable_signals().build(DefaultRuntime).block_on(async move {
            let server = build(gateway, acceptor, listeners, handed).await;
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
    Ok(Server { addresses, handover, control, ended })
}

fn bind_all(mqtt: &Mqtt, with_tls: bool) -> anyhow::Result<Vec<(Transport, TcpListener)>> {
    [
        (Transport::Tcp, "kpc.mqtt.listen", mqtt.listen, true),
        (Transport::Tls, "kpc.mqtt.tls.listen", mqtt.tls.listen, with_tls),
        (Transport::Ws, "kpc.mqtt.ws.listen", mqtt.ws.listen, mqtt.ws.enabled),
        (Transport::Wss, "kpc.mqtt.wss.listen", mqtt.wss.listen, with_tls && mqtt.wss.enabled),
    ]
    .into_iter()
    .filter(|(.., wanted)| *wanted)
    .map(|(transport, key, listen, _)| {
        let listener = bind(listen, mqtt.backlog)
            .with_context(|| format!("cannot listen on {listen}; free the port or set {key}"))?;
        Ok((transport, listener))
    })
    .collect()
}

/// Opens a listener, with a backlog of its own.
pub(crate) fn bind(listen: SocketAddr, backlog: u32) -> std::io::Result<TcpListener> {
    let socket = if listen.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(listen)?;
    socket.listen(backlog)?.into_std()
}

async fn build(
    gateway: Arc<Gateway>,
    acceptor: Option<Acceptor>,
    listeners: Vec<(Transport, TcpListener)>,
    handover: Handover,
) -> std::io::Result<NtexServer> {
    let config = &gateway.config;
    let settings = settings(config);
    let frame_max = usize::try_from(packet_max(&config.limits).get()).unwrap_or(usize::MAX);
    let workers = config.mqtt.workers();
    let accepted = accepted_per_worker(config.limits.connections, workers);
    let transports: Vec<Transport> = listeners.iter().map(|(transport, _)| *transport).collect();
    let server = NtexServer::builder()
        .name("kpc-mqtt")
        .workers(workers)
        .max_connections(accepted)
        .disable_signals()
        .graceful_shutdown_timeout(STOP_PATIENCE)
        .configure(async move |service: ServiceConfig<NoConfig>| {
            for (transport, listener) in listeners {
                service.listen(transport.name(), listener);
            }
            service.on_worker_start(async move |worker: ServiceRuntime<()>| {
                let mqtt = Pipeline::new((), mqtt(Local::start(gateway.clone())));
                let reception = Reception::new(gateway, acceptor, frame_max, mqtt);
                for transport in transports {
                    receive(&worker, transport, &settings, reception.clone());
                }
                handover.receive(settings, reception);
                Ok(())
            });
            Ok(())
        })
        .await?
        .run();
    Ok(server)
}

/// Has a worker thread serve what comes over a transport. A service for each, because what waits for a connection's end
/// takes as much memory as the longest way to it.
fn receive(
    worker: &ServiceRuntime<()>,
    transport: Transport,
    settings: &SharedCfg,
    reception: Rc<Reception>,
) {
    let (name, settings) = (transport.name(), settings.clone());
    match transport {
        Transport::Tcp => worker.service(name, settings, fn_service(async move |io| reception.tcp(io).await)),
        Transport::Tls => worker.service(name, settings, fn_service(async move |io| reception.tls(io).await)),
        Transport::Ws => worker.service(name, settings, fn_service(async move |io| reception.ws(io).await)),
        Transport::Wss => worker.service(name, settings, fn_service(async move |io| reception.wss(io).await)),
    };
}

/// MQTT 3.1.1 and 5, over whatever carries it.
fn mqtt(local: Rc<Local>) -> impl Service<(), State<Arrival, IoBoxed>, Res = (), Error = ()> {
    let (local_v3, local_v5) = (local.clone(), local);
    MqttServer::new()
        .v3(v3::MqttServer::with(async |session: &v3::Session<Session>, publish: v3::Publish| {
            publish_v3(session, publish).await
        })
        .protocol(async |session: &v3::Session<Session>, message: v3::ProtocolMessage| {
            packet_v3(session, message).await
        })
        .control(async |session: &v3::Session<Session>, control: Control<Closed>| {
            end(session, &control);
            Ok::<_, Closed>(None)
        })
        .build(async move |connect: v3::Connect<Arrival>| connect_v3(&local_v3, connect).await))
        .v5(v5::MqttServer::with(async |session: &v5::Session<Session>, publish: v5::Publish| {
            publish_v5(session, publish).await
        })
        .protocol(async |session: &v5::Session<Session>, message: v5::ProtocolMessage| {
            packet_v5(session, message).await
        })
        .control(async |session: &v5::Session<Session>, control: Control<Closed>| {
            end(session, &control);
            Ok::<_, Closed>(None)
        })
        .build(async move |connect: v5::Connect<Arrival>| connect_v5(&local_v5, connect).await))
        // Connections end all the time, and what is to be done then is done by their sessions.
        .map_err(drop)
}

/// How many connections one thread accepts. The library holds back those above it without a word, so together the
/// threads accept somewhat more than are allowed; when one is full, the others go on.
fn accepted_per_worker(connections: usize, workers: usize) -> usize {
    connections.div_ceil(workers.max(1)).saturating_add(ACCEPT_RESERVE)
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
    let mqtt = MqttServiceConfig::new()
        .set_max_qos(QoS::ExactlyOnce)
        // Until CONNECT has been answered, and then what a message may have.
        .set_max_size(CONNECT_BYTES_MAX)
        // The gateway limits how many messages are worked on, after they are out of reach of the connection's end; what
        // limits reading, with every quality of service, is the queue. MQTT 5 clients are told the number in CONNACK.
        .set_max_receive(0)
        .set_max_receive_size(limits.in_flight_bytes_per_connection)
        .set_max_queue(usize::from(limits.in_flight_per_connection) * READ_AHEAD)
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
    // For the opening handshake of WebSocket.
    let http = HttpServiceConfig::new().set_max_buf_size(websocket::HEAD_BYTES_MAX);
    SharedCfg::new("mqtt").add(mqtt).add(io).add(http).into()
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;
    use std::sync::atomic::Ordering;

    use runtime::{Context, Platform, Settings, entry};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;

    static GATEWAY: OnceLock<Arc<Gateway>> = OnceLock::new();

    /// The gateway, which the test can look into.
    struct Glass;

    impl runtime::Service for Glass {
        const NAME: &'static str = "kpc";

        type Config = Config;

        fn subjects() -> runtime::Subjects {
            crate::contract::subjects()
        }

        async fn start(config: Config, context: Context) -> anyhow::Result<()> {
            let gateway = crate::start(config, context).await?;
            assert!(GATEWAY.set(gateway).is_ok(), "one gateway for one test");
            Ok(())
        }
    }

    /// A client of MQTT 3.1.1 (4) or 5.
    async fn connect(port: u16, version: u8) -> TcpStream {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let properties: &[u8] = if version == 5 { &[0] } else { &[] };
        let body = [b"\x00\x04MQTT", &[version, 2, 0, 60][..], properties, b"\x00\x00"].concat();
        let packet = [&[0x10, u8::try_from(body.len()).unwrap()][..], &body].concat();
        stream.write_all(&packet).await.unwrap();
        let mut head = [0; 2];
        stream.read_exact(&mut head).await.unwrap();
        let mut rest = vec![0; head[1].into()];
        stream.read_exact(&mut rest).await.unwrap();
        assert_eq!((head[0], rest[1]), (0x20, 0));
        stream
    }

    /// A message of 1,024 bytes with QoS 0.
    fn message(version: u8) -> Vec<u8> {
        let properties: &[u8] = if version == 5 { &[0] } else { &[] };
        let mut packet = [b"\x30\xFD\x07\x00\x14kp1/demo-v1/dcx/t/js", properties].concat();
        packet.resize(1_024, b'x');
        packet
    }

    #[test]
    fn more_connections_are_accepted_than_are_allowed_so_that_our_limit_counts() {
        for (connections, workers) in [(1, 1), (100_000, 1), (100_000, 3), (1_000_000, 4)] {
            assert!(accepted_per_worker(connections, workers) * workers >= connections + ACCEPT_RESERVE);
        }
        assert_eq!(accepted_per_worker(100_000, 4), 26_024);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_flood_is_not_read_faster_than_it_is_worked_off() {
        let nats = testkit::nats().await;
        let port = testkit::Port::reserve();
        // One thread serves all connections. Nobody answers the gateway, so its messages stay in work.
        let settings = [
            ("nats.url", nats.url.clone()),
            ("http.listen", "127.0.0.1:0".to_owned()),
            ("http.auth.api_key", "a-key-for-tests-0123456789abcdef".to_owned()),
            ("http.auth.tenant", "acme".to_owned()),
            ("http.auth.tenant_manager", "false".to_owned()),
            ("kpc.mqtt.listen", format!("127.0.0.1:{}", port.number())),
            ("kpc.mqtt.ws.enabled", "false".to_owned()),
            ("kpc.mqtt.workers", "1".to_owned()),
            ("kpc.deadline_ms", "600000".to_owned()),
            ("kpc.limits.in_flight_per_connection", "16".to_owned()),
        ];
        let settings = settings.map(|(key, value)| (key.to_owned(), value)).to_vec();
        let settings = Settings::from_layers(None, Vec::new(), settings);
        let mut platform = Platform::start(&settings, &[entry::<Glass>()], &["kpc"], None).await.unwrap();
        platform.ready().await.unwrap();
        let in_flight = || GATEWAY.get().unwrap().in_flight.load(Ordering::Acquire);
        let mut floods = Vec::new();
        for version in [4, 5] {
            let most = 16 * READ_AHEAD * (floods.len() + 1);
            let (mut flood, message) = (connect(port.number(), version).await, message(version));
            floods.push(tokio::spawn(async move {
                for _ in 0..50_000 {
                    flood.write_all(&message).await.unwrap();
                }
            }));
            testkit::eventually("as many are read as may be", Duration::from_secs(20), async || {
                (in_flight() >= most).then_some(())
            })
            .await;
            // The thread has come round when it answers another connection.
            let mut other = connect(port.number(), version).await;
            for _ in 0..200 {
                other.write_all(&[0xC0, 0]).await.unwrap();
                other.read_exact(&mut [0; 2]).await.unwrap();
                assert_eq!(in_flight(), most, "MQTT {version}");
            }
        }
        assert!(
            floods.iter().all(|flood| !flood.is_finished()),
            "a flood finds its end in the kernel's buffers"
        );
        floods.iter().for_each(tokio::task::JoinHandle::abort);
    }
}
