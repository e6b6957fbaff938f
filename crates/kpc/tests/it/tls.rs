//! MQTT over TLS: certificates of the gateway and of clients.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ism::Record as _;
use ism::authorities::{
    AUTHORITIES_CHANGED, AUTHORITIES_REQUEST, AuthoritiesChangedEvent, AuthoritiesRequest,
    AuthoritiesResponse, Authority,
};
use ism::cap::{
    CERTIFICATE_REQUEST, ClientCertificateAuthenticationRequest, ClientCertificateAuthenticationResponse,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    date_time_ymd,
};
use rustls::version::{TLS12, TLS13};
use rustls::{AlertDescription, ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use testbed::Responder;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::client::{Client, Packet};
use crate::world::{Gate, World};

const WITHIN: Duration = Duration::from_secs(20);

pub(crate) type Ca = CertifiedIssuer<'static, KeyPair>;
/// A certificate chain and its key.
pub(crate) type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

pub(crate) fn authority(name: &str) -> Ca {
    CertifiedIssuer::self_signed(authority_params(name), KeyPair::generate().unwrap()).unwrap()
}

pub(crate) fn device(by: &Ca, change: impl FnOnce(&mut CertificateParams)) -> Identity {
    let mut params = params("device");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, by).unwrap();
    (vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
}

/// The gateway's certificate, in files.
pub(crate) struct Served {
    folder: tempfile::TempDir,
    root: Ca,
    ports: [testkit::Port; 2],
}

impl Served {
    pub(crate) fn new() -> Self {
        let ports = [testkit::Port::reserve(), testkit::Port::reserve()];
        let served = Self { folder: tempfile::tempdir().unwrap(), root: authority("root"), ports };
        served.renew();
        served
    }

    /// Issues a new certificate; returns it.
    fn renew(&self) -> CertificateDer<'static> {
        let key = KeyPair::generate().unwrap();
        let certificate = params("gateway").signed_by(&key, &self.root).unwrap();
        let chain = format!("{}{}", certificate.pem(), self.root.pem());
        fs::write(self.folder.path().join("tls.crt"), chain).unwrap();
        fs::write(self.folder.path().join("tls.key"), key.serialize_pem()).unwrap();
        certificate.der().clone()
    }

    /// The path of a file.
    pub(crate) fn file(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    pub(crate) async fn gate(&self, world: &World, extra: &[(&str, &str)]) -> Gate {
        let listen = |port: &testkit::Port| format!("127.0.0.1:{}", port.number());
        let settings = [
            ("kpc.mqtt.tls.listen", listen(&self.ports[0])),
            ("kpc.mqtt.wss.listen", listen(&self.ports[1])),
            ("kpc.mqtt.tls.certificate_file", self.file("tls.crt")),
            ("kpc.mqtt.tls.key_file", self.file("tls.key")),
        ];
        let settings = settings.iter().map(|(key, value)| (*key, value.as_str()));
        world.gate(&settings.chain(extra.iter().copied()).collect::<Vec<_>>()).await
    }

    pub(crate) fn wss_port(&self) -> u16 {
        self.ports[1].number()
    }

    /// Makes connections of these versions.
    pub(crate) fn connector(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        identity: Option<&Identity>,
    ) -> TlsConnector {
        self.connector_offering(versions, identity, &[])
    }

    /// The same for a client that says what it wants to speak (ALPN).
    pub(crate) fn connector_offering(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        identity: Option<&Identity>,
        protocols: &[&str],
    ) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match identity {
            Some((chain, key)) => builder.with_client_auth_cert(chain.clone(), key.clone_key()).unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        TlsConnector::from(Arc::new(config))
    }

    pub(crate) async fn dial(&self, connector: &TlsConnector) -> io::Result<TlsStream<TcpStream>> {
        dial(self.ports[0].number(), connector).await
    }

    /// The alert with which a client is refused. With TLS 1.3 a client learns of it only when it reads.
    async fn refused(
        &self,
        version: &'static SupportedProtocolVersion,
        identity: &Identity,
    ) -> AlertDescription {
        let connector = self.connector(&[version], Some(identity));
        let error = match self.dial(&connector).await {
            Ok(mut stream) => {
                let read = tokio::time::timeout(WITHIN, stream.read_u8()).await.unwrap();
                read.expect_err("the client is refused")
            }
            Err(error) => error,
        };
        match error.get_ref().and_then(|error| error.downcast_ref()) {
            Some(rustls::Error::AlertReceived(alert)) => *alert,
            _ => panic!("{error:?}"),
        }
    }
}

pub(crate) async fn dial(port: u16, connector: &TlsConnector) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let name = ServerName::try_from("localhost").unwrap();
    tokio::time::timeout(WITHIN, connector.connect(name, stream)).await.unwrap()
}

async fn publishes(client: &mut Client, payload: &str) {
    let id = client.publish("kp1/demo-v1/echo/t1/json/1", payload, 1).await;
    assert_eq!(client.acknowledged(id).await, 0);
    assert_eq!(client.message("kp1/demo-v1/echo/t1/json/1/status").await, payload);
}

/// The register of client credentials: its authorities, given out one by one, and a client for every certificate.
pub(crate) struct Ccm {
    authorities: Arc<Mutex<Vec<Authority>>>,
    /// What is answered for the certificates with these serial numbers; 200 for others.
    pub(crate) statuses: Arc<Mutex<HashMap<String, i32>>>,
    _responders: [Responder; 2],
}

impl Ccm {
    pub(crate) async fn start(world: &World) -> Self {
        let statuses: Arc<Mutex<HashMap<String, i32>>> = Arc::default();
        let special = statuses.clone();
        let authorities: Arc<Mutex<Vec<Authority>>> = Arc::default();
        let all = authorities.clone();
        let subject = AUTHORITIES_REQUEST.at("ccm");
        let pages = Responder::start(&world.client, subject, move |request: AuthoritiesRequest| {
            let from = request.after.map_or(0, |after| after.parse().unwrap());
            let all = all.lock().unwrap();
            Some(AuthoritiesResponse {
                correlation_id: request.correlation_id,
                timestamp: request.timestamp,
                timeout: request.timeout,
                authorities: all.get(from).cloned().into_iter().collect(),
                next: (from + 1 < all.len()).then(|| (from + 1).to_string()),
                status_code: 200,
                reason_phrase: None,
            })
        })
        .await;
        let subject = CERTIFICATE_REQUEST.at("ccm");
        let clients = Responder::start(
            &world.client,
            subject,
            move |request: ClientCertificateAuthenticationRequest| {
                Some(ClientCertificateAuthenticationResponse {
                    correlation_id: request.correlation_id,
                    timestamp: request.timestamp,
                    timeout: request.timeout,
                    tenant_id: Some("acme".to_owned()),
                    credentials_id: Some(request.serial_number.clone()),
                    status_code: special.lock().unwrap().get(&request.serial_number).copied().unwrap_or(200),
                    client_id: Some(request.serial_number),
                    reason_phrase: None,
                })
            },
        )
        .await;
        Self { authorities, statuses, _responders: [pages, clients] }
    }

    pub(crate) fn trust(&self, ca: &Ca) {
        let certificate = bytes::Bytes::copy_from_slice(ca.der());
        self.authorities.lock().unwrap().push(Authority { tenant_id: "acme".to_owned(), certificate });
    }

    async fn announce(world: &World) {
        let event = AuthoritiesChangedEvent {
            correlation_id: "1".to_owned(),
            timestamp: 0,
            timeout: 0,
            tenant_id: "acme".to_owned(),
            originator_replica_id: "ccm-1".to_owned(),
        };
        let subject = AUTHORITIES_CHANGED.of(&ids::InstanceName::parse("ccm").unwrap());
        world.client.publish(subject, event.encode()).await.unwrap();
        world.client.flush().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_without_certificates_speak_mqtt_over_tls() {
    let world = World::new().await;
    let served = Served::new();
    let _gate = served.gate(&world, &[]).await;
    for tls in [&TLS12, &TLS13] {
        for mqtt in [4, 5] {
            let stream = served.dial(&served.connector(&[tls], None)).await.unwrap();
            assert_eq!(stream.get_ref().1.protocol_version(), Some(tls.version));
            let mut client = Client::over(stream, mqtt).hello("c").await;
            publishes(&mut client, "small").await;
            publishes(&mut client, &"large".repeat(100_000)).await;
            client.disconnect().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_a_tenants_authority_is_accepted_and_others_are_refused() {
    let world = World::new().await;
    let (first, second) = (authority("first"), authority("second"));
    let ccm = Ccm::start(&world).await;
    ccm.trust(&first);
    ccm.trust(&second);
    let served = Served::new();
    let _gate = served.gate(&world, &[]).await;
    // Authorities under a trusted one, the second under its name.
    let below = ["below", "first"].map(|name| {
        CertifiedIssuer::signed_by(authority_params(name), KeyPair::generate().unwrap(), &first).unwrap()
    });
    for version in [&TLS12, &TLS13] {
        for ca in [&first, &second] {
            let connector = served.connector(&[version], Some(&device(ca, |_| {})));
            let mut client = Client::over(served.dial(&connector).await.unwrap(), 5).hello("c").await;
            publishes(&mut client, "x").await;
        }
        let unknown = device(&authority("first of all"), |_| {});
        assert_eq!(served.refused(version, &unknown).await, AlertDescription::UnknownCA);
        let forged = device(&authority("first"), |_| {});
        assert_eq!(served.refused(version, &forged).await, AlertDescription::DecryptError);
        let expired = device(&first, |params| params.not_after = date_time_ymd(2024, 1, 1));
        assert_eq!(served.refused(version, &expired).await, AlertDescription::CertificateExpired);
        let server =
            device(&first, |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
        assert_eq!(served.refused(version, &server).await, AlertDescription::UnsupportedCertificate);
        // That a client shows how its certificate leads to a trusted authority is not enough.
        for (below, alert) in below.iter().zip([AlertDescription::UnknownCA, AlertDescription::DecryptError])
        {
            let mut tricky = device(below, |_| {});
            tricky.0.push(below.der().clone());
            assert_eq!(served.refused(version, &tricky).await, alert);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn authorities_come_and_go_while_the_gateway_serves() {
    let world = World::new().await;
    let ca = authority("late");
    let served = Served::new();
    // There is no register yet.
    let _gate = served.gate(&world, &[]).await;
    let identity = device(&ca, |_| {});
    assert_eq!(served.refused(&TLS13, &identity).await, AlertDescription::UnknownCA);
    let connector = served.connector(&[&TLS13], Some(&identity));
    let is_accepted = async || {
        let mut stream = served.dial(&connector).await.ok()?;
        stream.write_all(b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00").await.ok()?;
        stream.read_u8().await.ok()
    };
    let ccm = Ccm::start(&world).await;
    ccm.trust(&ca);
    testkit::eventually("the authority is known", WITHIN, is_accepted).await;
    ccm.authorities.lock().unwrap().clear();
    Ccm::announce(&world).await;
    testkit::eventually("the authority is gone", WITHIN, async || {
        is_accepted().await.is_none().then_some(())
    })
    .await;
    ccm.trust(&ca);
    Ccm::announce(&world).await;
    testkit::eventually("the authority is back", WITHIN, is_accepted).await;
    // What is known stays while the register is away.
    drop(ccm);
    Ccm::announce(&world).await;
    for _ in 0..20 {
        assert!(is_accepted().await.is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_served_and_connections_stay() {
    let world = World::new().await;
    let served = Served::new();
    let gate = served.gate(&world, &[]).await;
    let connector = served.connector(&[&TLS13, &TLS12], None);
    let shown = async || {
        let stream = served.dial(&connector).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].clone()
    };
    let mut client = Client::over(served.dial(&connector).await.unwrap(), 5).hello("c").await;
    let renewed = served.renew();
    testkit::eventually("the new certificate is served", WITHIN, async || {
        (shown().await == renewed).then_some(())
    })
    .await;
    publishes(&mut client, "x").await;
    // One that cannot be used is not taken.
    fs::write(served.folder.path().join("tls.crt"), "broken").unwrap();
    assert_eq!(shown().await, renewed);
    publishes(&mut client, "y").await;
    let url = |name| format!("http://{}/kpc/api/v1/certificates/{name}", gate.platform.http_address());
    let response = reqwest::get(url("server")).await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/x-pem-file");
    let chain = response.text().await.unwrap();
    assert!(chain.starts_with("-----BEGIN CERTIFICATE-----") && !chain.contains("PRIVATE"), "{chain}");
    let root = reqwest::get(url("root")).await.unwrap().text().await.unwrap();
    assert!(chain.ends_with(&root) && chain.len() > root.len(), "{root}");
    assert_eq!(root.replace("\r\n", "\n"), served.root.pem().replace("\r\n", "\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_certificate_there_is_no_tls() {
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    let url = format!("http://{}/kpc/api/v1/certificates/root", gate.platform.http_address());
    let response = reqwest::get(url).await.unwrap();
    assert_eq!(response.status(), 404);
    let text = response.text().await.unwrap();
    assert!(text.contains("kpc.mqtt.tls.certificate_file"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_resumed_only_where_no_certificates_are_asked_for() {
    let world = World::new().await;
    for (asked, kind) in [("false", HandshakeKind::Resumed), ("true", HandshakeKind::Full)] {
        let served = Served::new();
        let _gate = served.gate(&world, &[("kpc.mqtt.tls.client_certificates", asked)]).await;
        for version in [&TLS12, &TLS13] {
            let connector = served.connector(&[version], None);
            for kind in [HandshakeKind::Full, kind] {
                let stream = served.dial(&connector).await.unwrap();
                assert_eq!(stream.get_ref().1.handshake_kind(), Some(kind), "{asked} {version:?}");
                // What the client reads brings its ticket.
                publishes(&mut Client::over(stream, 4).hello("c").await, "x").await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_that_say_nothing_are_few_and_do_not_last() {
    let world = World::new().await;
    let served = Served::new();
    let limits = [
        ("kpc.limits.connecting_per_address", "3"),
        ("kpc.mqtt.tls.handshake_timeout_s", "1"),
        ("kpc.mqtt.workers", "1"),
    ];
    let gate = served.gate(&world, &limits).await;
    let connector = served.connector(&[&TLS13], None);
    // Those that have said CONNECT do not count.
    let mut clients = Vec::new();
    for number in 0..5 {
        let stream = served.dial(&connector).await.unwrap();
        clients.push(Client::over(stream, 5).hello(&number.to_string()).await);
    }
    let silent = async |port: u16| TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let tls = served.ports[0].number();
    let mut held = [silent(tls).await, silent(gate.mqtt).await, silent(tls).await];
    testkit::eventually("one more is closed at once", WITHIN, async || {
        let mut more = silent(tls).await;
        matches!(more.read_u8().await, Err(error) if error.kind() == io::ErrorKind::UnexpectedEof)
            .then_some(())
    })
    .await;
    // A handshake that does not come is not waited for.
    let read = tokio::time::timeout(WITHIN, held[0].read_u8()).await.unwrap();
    assert_eq!(read.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    testkit::eventually("others are served again", WITHIN, async || {
        let stream = served.dial(&connector).await.ok()?;
        let mut client = Client::over(stream, 5);
        client.ping().await;
        client.next_or_end().await.is_none().then_some(())
    })
    .await;
    for client in &mut clients {
        client.ping().await;
        assert_eq!(client.next().await, Packet::PingResp);
    }
}
