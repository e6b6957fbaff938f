//! Clients with a certificate.

use ids::InstanceName;
use ism::Record as _;
use ism::cap::{CERTIFICATE_REVOKED, ClientCredentialsRevokedEvent};
use rustls::version::TLS13;
use testkit::eventually;
use x509_parser::parse_x509_certificate;

use crate::ccm::{Logins, code, log_in};
use crate::client::{Client, Packet};
use crate::tls::{Ccm, Identity, Served, authority, device};
use crate::world::World;

const REQUIRED: &str = r#"{"transports":{"mqtt":{"tls":{"x509-auth":{"required":true}}}}}"#;

fn serial_number(identity: &Identity) -> String {
    parse_x509_certificate(&identity.0[0]).unwrap().1.serial.to_string()
}

/// Connects over TLS, with a login if one is given; the answer to CONNECT.
async fn connect(served: &Served, identity: Option<&Identity>, login: Option<&str>) -> (Client, Packet) {
    let stream = served.dial(&served.connector(&[&TLS13], identity)).await.unwrap();
    let mut client = Client::over(stream, 5);
    let password = login.map(|_| &b"secret"[..]);
    let answer = client.say_connect("c", login.map(str::as_bytes), password, None).await;
    (client, answer.expect("the connection was closed"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_looked_up_and_its_revocation_ends_its_session() {
    let world = World::new().await;
    let ca = authority("acme");
    let ccm = Ccm::start(&world).await;
    ccm.trust(&ca);
    let served = Served::new();
    let _gate = served.gate(&world, &[]).await;
    let (good, unknown, suspended) = (device(&ca, |_| {}), device(&ca, |_| {}), device(&ca, |_| {}));
    let answers = [(serial_number(&unknown), 401), (serial_number(&suspended), 403)];
    ccm.statuses.lock().unwrap().extend(answers);
    for identity in [&unknown, &suspended] {
        assert_eq!(code(&connect(&served, Some(identity), None).await.1), 0x87);
    }
    let (mut client, answer) = connect(&served, Some(&good), None).await;
    assert_eq!(code(&answer), 0);
    // Its tenant is known.
    let id = client.publish("kp1/other-v1/echo/t1/json", "x", 1).await;
    assert_eq!(client.acknowledged(id).await, 0x87);
    let id = client.publish("kp1/demo-v1/echo/t1/json", "x", 1).await;
    assert_eq!(client.acknowledged(id).await, 0);
    ccm.statuses.lock().unwrap().insert(serial_number(&good), 403);
    let event = ClientCredentialsRevokedEvent {
        correlation_id: "r".to_owned(),
        tenant_id: "acme".to_owned(),
        credentials_id: serial_number(&good),
        originator_replica_id: "ccm-1".to_owned(),
        ..ClientCredentialsRevokedEvent::default()
    };
    let subject = CERTIFICATE_REVOKED.of(&InstanceName::parse("ccm").unwrap());
    world.client.publish(subject, event.encode()).await.unwrap();
    assert_eq!(
        client.wait(|packet| matches!(packet, Packet::Disconnect { .. })).await,
        Packet::Disconnect { code: 0x98 }
    );
    assert_eq!(code(&connect(&served, Some(&good), None).await.1), 0x87);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_and_a_login_must_both_be_good_and_of_one_tenant() {
    let world = World::new().await;
    let ca = authority("acme");
    let ccm = Ccm::start(&world).await;
    ccm.trust(&ca);
    let logins = Logins::start(&world, &["good"]).await;
    let served = Served::new();
    let _gate = served.gate(&world, &[]).await;
    let identity = device(&ca, |_| {});
    let (mut both, answer) = connect(&served, Some(&identity), Some("good@acme")).await;
    assert_eq!(code(&answer), 0);
    assert_eq!(code(&connect(&served, Some(&identity), Some("good@umbrella")).await.1), 0x87);
    assert_eq!(code(&connect(&served, Some(&identity), Some("bad@acme")).await.1), 0x86);
    // Either credentials end the session.
    logins.revoke(&world, "good").await;
    assert_eq!(
        both.wait(|packet| matches!(packet, Packet::Disconnect { .. })).await,
        Packet::Disconnect { code: 0x98 }
    );
    logins.set("good", 200);
    ccm.statuses.lock().unwrap().insert(serial_number(&identity), 401);
    assert_eq!(code(&connect(&served, Some(&identity), Some("good@acme")).await.1), 0x87);
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_may_be_required_over_tls_alone() {
    let world = World::new().await;
    let ca = authority("acme");
    let ccm = Ccm::start(&world).await;
    ccm.trust(&ca);
    let _logins = Logins::start(&world, &["good"]).await;
    world.configure("acme", None, REQUIRED).await;
    let served = Served::new();
    let gate = served.gate(&world, &[]).await;
    let (mut nobody, answer) = connect(&served, None, None).await;
    assert_eq!(code(&answer), 0);
    nobody.publish("kp1/demo-v1/echo/t1/json", "x", 0).await;
    assert!(nobody.message("kp1/demo-v1/echo/t1/json/error").await.contains("certificate"));
    assert_eq!(nobody.next_or_end().await, Some(Packet::Disconnect { code: 0x87 }));
    assert_eq!(code(&connect(&served, None, Some("good@acme")).await.1), 0x87);
    let (mut good, answer) = connect(&served, Some(&device(&ca, |_| {})), None).await;
    assert_eq!(code(&answer), 0);
    let id = good.publish("kp1/demo-v1/echo/t1/json", "x", 1).await;
    assert_eq!(good.acknowledged(id).await, 0);
    // Over plain TCP nothing is required.
    let mut plain = log_in(gate.mqtt, 5, "plain", "good").await;
    let id = plain.publish("kp1/demo-v1/echo/t1/json", "x", 1).await;
    assert_eq!(plain.acknowledged(id).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_with_its_certificate() {
    let world = World::new().await;
    let ca = authority("acme");
    let ccm = Ccm::start(&world).await;
    ccm.trust(&ca);
    let served = Served::new();
    let _gate = served.gate(&world, &[]).await;
    // Certificates end on full seconds; one that has just begun may be too short to connect with.
    let connected = eventually("a client with a certificate connects", testbed::PATIENCE, async || {
        let short = device(&ca, |params| {
            params.not_before = (std::time::SystemTime::now() - std::time::Duration::from_secs(60)).into();
            params.not_after = (std::time::SystemTime::now() + std::time::Duration::from_secs(3)).into();
        });
        let stream = served.dial(&served.connector(&[&TLS13], Some(&short))).await.ok()?;
        let mut client = Client::over(stream, 5);
        let answer = client.say_connect("c", None, None, None).await?;
        (code(&answer) == 0).then_some(client)
    });
    let mut client = connected.await;
    assert_eq!(client.next_or_end().await, Some(Packet::Disconnect { code: 0x87 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_was_revoked_while_nats_was_away_ends_its_session_after_it() {
    let mut world = World::new().await;
    let ca = authority("acme");
    let ccm = Ccm::start(&world).await;
    ccm.trust(&ca);
    let served = Served::new();
    let gate = served.gate(&world, &[]).await;
    let (good, bad) = (device(&ca, |_| {}), device(&ca, |_| {}));
    let mut stays = connect(&served, Some(&good), None).await.0;
    let stream = served.dial(&served.connector(&[&TLS13], Some(&bad))).await.unwrap();
    let mut goes = Client::over(stream, 5).hello("d").await;
    world.nats.kill();
    let nats = gate.platform.services()[0].nats().clone();
    eventually("the gateway has noticed", testbed::PATIENCE, async || {
        (nats.connection_state() != async_nats::connection::State::Connected).then_some(())
    })
    .await;
    ccm.statuses.lock().unwrap().insert(serial_number(&bad), 403);
    world.nats.restart().await;
    assert_eq!(goes.next_or_end().await, Some(Packet::Disconnect { code: 0x98 }));
    assert!(stays.is_silent().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_passwords_keeps_out_nobody_with_a_certificate() {
    let world = World::new().await;
    let ca = authority("acme");
    let ccm = Ccm::start(&world).await;
    ccm.trust(&ca);
    let _logins = Logins::start(&world, &["good"]).await;
    let served = Served::new();
    let limits = [
        ("kpc.throttle.failed_logins_per_minute_per_address", "1"),
        ("kpc.throttle.block_first_s", "600"),
        ("kpc.throttle.block_max_s", "600"),
    ];
    let _gate = served.gate(&world, &limits).await;
    assert_eq!(code(&connect(&served, None, Some("bad@acme")).await.1), 0x86);
    assert_eq!(code(&connect(&served, None, Some("good@acme")).await.1), 0x9F);
    let identity = device(&ca, |_| {});
    assert_eq!(code(&connect(&served, Some(&identity), None).await.1), 0);
    assert_eq!(code(&connect(&served, Some(&identity), Some("good@acme")).await.1), 0x9F);
}
