//! Clients with a user name and password.

use std::sync::atomic::Ordering;
use std::time::Duration;

use testkit::eventually;

use crate::ccm::{Logins, code, log_in, try_log_in, will};
use crate::client::{Client, Packet, Will, text};
use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_checked_and_each_refusal_has_its_code() {
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    let logins = Logins::start(&world, &["good", "suspended", "odd"]).await;
    logins.set("suspended", 403);
    logins.set("odd", 500);
    for (version, codes) in [(4, [0, 4, 4, 5, 3]), (5, [0, 0x86, 0x86, 0x87, 0x88])] {
        let cases = [
            ("good", "secret"),
            ("good", "wrong"),
            ("no one", "secret"),
            ("suspended", "secret"),
            ("odd", "secret"),
        ];
        for ((name, password), expected) in cases.into_iter().zip(codes) {
            let (_client, answer) = try_log_in(gate.mqtt, version, "", name, password).await;
            assert_eq!(code(&answer), expected, "MQTT {version}: {name} {password}");
        }
        let asked = logins.questions.load(Ordering::SeqCst);
        for tenant in ["good@", "good@AC ME", "@acme"] {
            let mut refused = Client::open(gate.mqtt, version).await;
            let answer = refused.say_connect("", Some(tenant.as_bytes()), Some(b"secret"), None).await;
            assert_eq!(code(&answer.unwrap()), codes[1], "{tenant}");
        }
        let mut refused = Client::open(gate.mqtt, version).await;
        let answer = refused.say_connect("", Some(b"good@acme"), None, None).await.unwrap();
        assert_eq!(code(&answer), codes[1], "no password");
        assert_eq!(logins.questions.load(Ordering::SeqCst), asked, "nobody need be asked about that");
    }
    let (_client, answer) = try_log_in(gate.mqtt, 5, "", "good", "wrong").await;
    let Packet::ConnAck { properties, .. } = answer else { panic!("{answer:?}") };
    assert!(properties.iter().any(|(id, text)| *id == 0x1F && text.ends_with(b"the password is wrong")));
    drop(logins);
    eventually("the register is away", Duration::from_secs(10), async || {
        let answer = try_log_in(gate.mqtt, 5, "", "good", "secret").await.1;
        (code(&answer) == 0x88).then_some(())
    })
    .await;
    assert_eq!(code(&try_log_in(gate.mqtt, 4, "", "good", "secret").await.1), 3);
    // Clients without credentials need no register.
    Client::connect(gate.mqtt, 4, "").await;
}

/// Many libraries and examples send some user name.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_name_that_names_no_tenant_is_as_good_as_none() {
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    let logins = Logins::start(&world, &["good"]).await;
    let connect = async |version, username: &[u8], password: Option<&[u8]>| {
        let mut client = Client::open(gate.mqtt, version).await;
        let answer = client.say_connect("", Some(username), password, None).await.unwrap();
        assert_eq!(code(&answer), 0, "{username:?} {password:?}");
        client
    };
    for (username, password) in
        [(&b"good"[..], Some(&b"secret"[..])), (b"user", None), (b"", Some(b"")), (b"u", Some(b"\xFF"))]
    {
        for version in [4, 5] {
            let mut client = connect(version, username, password).await;
            let id = client.publish("kp1/demo-v1/echo/t1/json", "x", 1).await;
            assert_eq!(client.acknowledged(id).await, 0);
        }
    }
    // Where a login is required it is none.
    world
        .configure("umbrella", None, r#"{"transports":{"mqtt":{"tcp":{"basic-auth":{"required":true}}}}}"#)
        .await;
    let mut client = connect(5, b"good", Some(b"secret")).await;
    client.publish("kp1/other-v1/echo/t1/json", "x", 1).await;
    assert!(client.message("kp1/other-v1/echo/t1/json/error").await.contains("401"));
    assert_eq!(client.next_or_end().await, Some(Packet::Disconnect { code: 0x87 }));
    assert_eq!(logins.questions.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_takes_over_a_client_by_writing_its_sessions_name() {
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    let _logins = Logins::start(&world, &["good"]).await;
    let mut known = log_in(gate.mqtt, 5, "same", "good").await;
    let long = "x".repeat(1_025);
    for (version, refused) in [(4, 2), (5, 0x85)] {
        for client_id in ["acme\0same", "same\0"] {
            let mut stranger = Client::open(gate.mqtt, version).await;
            let answer = stranger.say_connect(client_id, None, None, None).await;
            assert!(answer.is_none_or(|answer| code(&answer) > 0));
        }
        let (_, answer) = Client::try_connect(gate.mqtt, version, &long, None).await;
        assert_eq!(code(&answer), refused);
    }
    assert!(known.is_silent().await);
    Client::connect(gate.mqtt, 4, &long[1..]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_its_turn_when_credentials_are_revoked_is_not_taken() {
    let world = World::new().await;
    let gate = world.gate(&[("kpc.limits.in_flight_per_connection", "1")]).await;
    let logins = Logins::start(&world, &["one", "two"]).await;
    for version in [4, 5] {
        logins.set("one", 200);
        let mut client = log_in(gate.mqtt, version, "c", "one").await;
        client.publish("kp1/demo-v1/echo/t1/gate", format!("first {version}"), 1).await;
        client.publish("kp1/demo-v1/echo/t1/json", format!("second {version}"), 1).await;
        world.extension.has(&format!("first {version}")).await;
        logins.revoke(&world, "one").await;
        while !matches!(client.next_or_end().await, None | Some(Packet::Disconnect { .. })) {}
        world.extension.gate.notify_one();
    }
    let mut other = log_in(gate.mqtt, 5, "other", "two").await;
    for number in 0..10 {
        let id = other.publish("kp1/demo-v1/echo/t2/json", format!("{number}"), 1).await;
        assert_eq!(other.acknowledged(id).await, 0);
    }
    let received = world.extension.received.lock().await;
    assert!(!received.iter().any(|data| data.payload.starts_with(b"second")), "{received:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_are_revoked_while_a_will_waits_end_it() {
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    let logins = Logins::start(&world, &["one", "two"]).await;
    let leave = async |name: &str, delay_s| {
        let mut client = Client::open(gate.mqtt, 5).await;
        let last = Some(Will { delay_s, ..will("kp1/demo-v1/echo/t1/json", name).unwrap() });
        let username = format!("{name}@acme");
        let answer = client.say_connect(name, Some(username.as_bytes()), Some(b"secret"), last).await;
        assert_eq!(code(&answer.unwrap()), 0);
    };
    leave("one", 1).await;
    logins.revoke(&world, "one").await;
    // Sent later than the other would have been.
    leave("two", 2).await;
    world.extension.has("two").await;
    assert_eq!(world.extension.count().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn enhanced_authentication_is_refused() {
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    let mut client = Client::open(gate.mqtt, 5).await;
    let method = text(0x15, "SCRAM-SHA-1");
    let properties = [&[method.0], method.1.as_slice()].concat();
    let length = u8::try_from(properties.len()).unwrap();
    let body = [b"\x00\x04MQTT\x05\x02\x00\x3C", &[length][..], &properties, b"\x00\x00"].concat();
    client.send(&[&[0x10, u8::try_from(body.len()).unwrap()][..], &body].concat()).await;
    assert_eq!(code(&client.next().await), 0x8C);
}

#[tokio::test(flavor = "multi_thread")]
async fn revoked_credentials_end_their_sessions_and_their_wills() {
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    let logins = Logins::start(&world, &["one", "two"]).await;
    let mut five = Client::open(gate.mqtt, 5).await;
    let last = will("kp1/demo-v1/echo/t1/json", "last words");
    five.say_connect("five", Some(b"one@acme"), Some(b"secret"), last).await.unwrap();
    let mut three = log_in(gate.mqtt, 4, "three", "one").await;
    let mut other = log_in(gate.mqtt, 5, "other", "two").await;
    let id = five.publish("kp1/demo-v1/echo/t1/json", "before", 1).await;
    assert_eq!(five.acknowledged(id).await, 0);
    logins.revoke(&world, "one").await;
    assert_eq!(five.next_or_end().await, Some(Packet::Disconnect { code: 0x98 }));
    assert_eq!(three.next_or_end().await, None);
    assert!(other.is_silent().await);
    assert_eq!(code(&try_log_in(gate.mqtt, 5, "five", "one", "secret").await.1), 0x87);
    let id = other.publish("kp1/demo-v1/echo/t2/json", "after", 1).await;
    assert_eq!(other.acknowledged(id).await, 0);
    let received = world.extension.received.lock().await;
    let payloads: Vec<_> = received.iter().map(|data| data.payload.clone()).collect();
    assert_eq!(payloads, ["before", "after"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_while_the_client_connects_is_not_lost() {
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    let logins = Logins::start(&world, &["good"]).await;
    for round in 0..50 {
        logins.set("good", 200);
        let connecting = try_log_in(gate.mqtt, 5, "c", "good", "secret");
        let revoking = async {
            // At another moment each time.
            for _ in 0..round {
                tokio::task::yield_now().await;
            }
            logins.revoke(&world, "good").await;
        };
        let ((mut client, answer), ()) = tokio::join!(connecting, revoking);
        match code(&answer) {
            0 => assert_eq!(client.next_or_end().await, Some(Packet::Disconnect { code: 0x98 })),
            refused => assert_eq!(refused, 0x87),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_speaks_for_endpoints_of_its_own_tenant_only() {
    let world = World::new().await;
    let gate = world.gate(&[]).await;
    let _logins = Logins::start(&world, &["good"]).await;
    let mut client = log_in(gate.mqtt, 5, "c", "good").await;
    // Whether there is such a token is not told.
    for token in ["t1", "wrong"] {
        let topic = format!("kp1/other-v1/echo/{token}/json");
        let id = client.publish(&topic, "x", 1).await;
        assert_eq!(client.acknowledged(id).await, 0x87);
        assert!(client.message(&format!("{topic}/error")).await.contains("403"));
        assert_eq!(client.subscribe(&[&format!("kp1/other-v1/echo/{token}/#")], 1).await, [0x87]);
    }
    let id = client.publish("kp1/demo-v1/echo/t1/json", "x", 1).await;
    assert_eq!(client.acknowledged(id).await, 0);
    assert_eq!(client.subscribe(&["kp1/demo-v1/echo/t1/#"], 1).await, [1]);
    assert_eq!(world.token_questions.load(Ordering::SeqCst), 1);
    assert_eq!(world.extension.count().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_take_over_no_clients_session() {
    let world = World::new().await;
    let (one, two) = (world.gate(&[]).await, world.gate(&[]).await);
    let _logins = Logins::start(&world, &["good"]).await;
    let mut known = log_in(one.mqtt, 5, "same", "good").await;
    let mut stranger = Client::connect(one.mqtt, 5, "same").await;
    let mut elsewhere = Client::connect(two.mqtt, 5, "same").await;
    assert_eq!(stranger.next_or_end().await, Some(Packet::Disconnect { code: 0x8E }));
    assert!(known.is_silent().await && elsewhere.is_silent().await);
    let mut again = log_in(two.mqtt, 5, "same", "good").await;
    assert_eq!(known.next_or_end().await, Some(Packet::Disconnect { code: 0x8E }));
    assert!(again.is_silent().await && elsewhere.is_silent().await);
}
