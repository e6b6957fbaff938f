//! Guessing of passwords and endpoint tokens is slowed down.

use std::sync::atomic::Ordering;
use std::time::Duration;

use testkit::eventually;

use crate::ccm::{Logins, code, try_log_in, will};
use crate::client::{Client, Packet};
use crate::http::post;
use crate::world::World;

/// Blocks that last longer than a test.
const LONG: [(&str, &str); 2] = [("kpc.throttle.block_first_s", "600"), ("kpc.throttle.block_max_s", "600")];

#[tokio::test(flavor = "multi_thread")]
async fn failed_logins_are_looked_up_only_so_often() {
    let world = World::new().await;
    let limit = ("kpc.throttle.failed_logins_per_minute_per_address", "5");
    let gate = world.gate(&[limit, LONG[0], LONG[1]]).await;
    let logins = Logins::start(&world, &["good"]).await;
    for number in 0..5 {
        let password = format!("wrong {number}");
        assert_eq!(code(&try_log_in(gate.mqtt, 5, "", "good", &password).await.1), 0x86);
    }
    // Not even the right password is looked up.
    let (_, answer) = try_log_in(gate.mqtt, 5, "", "good", "secret").await;
    assert_eq!(code(&answer), 0x9F);
    let Packet::ConnAck { properties, .. } = answer else { panic!("{answer:?}") };
    let reason = properties.iter().find(|(id, _)| *id == 0x1F).unwrap();
    assert!(String::from_utf8_lossy(&reason.1).contains("too many failed logins; try again in"));
    assert_eq!(code(&try_log_in(gate.mqtt, 4, "", "good", "secret").await.1), 3);
    assert_eq!(logins.questions.load(Ordering::SeqCst), 5);
    // Who shows nothing is not concerned.
    Client::connect(gate.mqtt, 5, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_while_an_address_is_listened_to_again() {
    let world = World::new().await;
    let limits = [
        ("kpc.throttle.failed_logins_per_minute_per_address", "2"),
        ("kpc.throttle.unknown_tokens_per_minute_per_address", "2"),
    ];
    let gate = world.gate(&limits).await;
    let _logins = Logins::start(&world, &["good"]).await;
    for number in 0..2 {
        let password = format!("wrong {number}");
        assert_eq!(code(&try_log_in(gate.mqtt, 5, "", "good", &password).await.1), 0x86);
        let path = format!("/kp1/demo-v1/echo/wrong{number}/json");
        assert_eq!(post(&gate, &path, "x").await.status(), 401);
    }
    eventually("the right password is good again", Duration::from_secs(10), async || {
        (code(&try_log_in(gate.mqtt, 5, "", "good", "secret").await.1) == 0).then_some(())
    })
    .await;
    eventually("a good token is good again", Duration::from_secs(10), async || {
        (post(&gate, "/kp1/demo-v1/echo/t2/json", "x").await.status() == 200).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_shows_many_unknown_tokens_ends() {
    let world = World::new().await;
    // Each is asked for.
    let settings =
        [("kpc.throttle.unknown_tokens_per_minute_per_connection", "5"), ("kpc.tokens.refused_ttl_ms", "0")];
    let gate = world.gate(&settings).await;
    // One wrong token again and again is a mistake.
    let mut mistaken = Client::connect(gate.mqtt, 5, "m").await;
    for _ in 0..20 {
        let id = mistaken.publish("kp1/demo-v1/echo/wrong/json", "x", 1).await;
        assert_eq!(mistaken.acknowledged(id).await, 0x87);
    }
    let mut guessing = Client::connect(gate.mqtt, 5, "g").await;
    for number in 0..5 {
        let id = guessing.publish(&format!("kp1/demo-v1/echo/wrong{number}/json"), "x", 1).await;
        assert_eq!(guessing.acknowledged(id).await, 0x87);
    }
    // A subscription is a try too.
    guessing.send(b"\x82\x1B\x00\x63\x00\x00\x15kp1/demo-v1/echo/no/#\x00").await;
    loop {
        match guessing.next_or_end().await {
            Some(Packet::Disconnect { code }) => break assert_eq!(code, 0x97),
            Some(_) => {}
            None => panic!("closed without a word"),
        }
    }
    assert!(Client::connect(gate.mqtt, 5, "other").await.is_silent().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_shows_many_unknown_tokens_is_not_listened_to_for_a_while() {
    let world = World::new().await;
    let limit = ("kpc.throttle.unknown_tokens_per_minute_per_address", "5");
    let gate = world.gate(&[limit, LONG[0], LONG[1]]).await;
    let mut good = Client::connect(gate.mqtt, 5, "good").await;
    let id = good.publish("kp1/demo-v1/echo/t1/json", "x", 1).await;
    assert_eq!(good.acknowledged(id).await, 0);
    for number in 0..5 {
        let path = format!("/kp1/demo-v1/echo/wrong{number}/json");
        assert_eq!(post(&gate, &path, "x").await.status(), 401);
    }
    let refused = post(&gate, "/kp1/demo-v1/echo/t2/json", "x").await;
    let again: u32 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!(refused.status() == 429 && again > 500, "{again}");
    assert!(refused.text().await.unwrap().contains("(kpc.throttle.unknown_tokens_per_minute_per_address)"));
    let id = good.publish("kp1/demo-v1/echo/t2/json", "x", 1).await;
    assert_eq!(good.acknowledged(id).await, 0x97);
    assert_eq!(good.subscribe(&["kp1/demo-v1/echo/t2/#"], 1).await, [0x97]);
    // Without a negative acknowledgement a good message is not acknowledged, and not lost.
    let mut three = Client::connect(gate.mqtt, 4, "three").await;
    three.publish("kp1/demo-v1/echo/t3/json", "x", 1).await;
    assert!(three.message("kp1/demo-v1/echo/t3/json/error").await.contains("429"));
    assert_eq!(three.next_or_end().await, None);
    // What was proven before goes on.
    let id = good.publish("kp1/demo-v1/echo/t1/json", "y", 1).await;
    assert_eq!(good.acknowledged(id).await, 0);
    assert_eq!(world.token_questions.load(Ordering::SeqCst), 6);
}

/// Many devices have one address where they are behind a router or a proxy.
#[tokio::test(flavor = "multi_thread")]
async fn a_device_with_an_old_token_or_password_keeps_nobody_out() {
    let world = World::new().await;
    let limits = [
        ("kpc.throttle.failed_logins_per_minute_per_address", "3"),
        ("kpc.throttle.unknown_tokens_per_minute_per_address", "3"),
        ("kpc.tokens.refused_ttl_ms", "0"),
    ];
    let gate = world.gate(&[limits[0], limits[1], limits[2], LONG[0], LONG[1]]).await;
    let _logins = Logins::start(&world, &["good"]).await;
    for _ in 0..10 {
        assert_eq!(post(&gate, "/kp1/demo-v1/echo/old/json", "x").await.status(), 401);
        let mut client = Client::connect(gate.mqtt, 5, "").await;
        let id = client.publish("kp1/demo-v1/echo/old/json", "x", 1).await;
        assert_eq!(client.acknowledged(id).await, 0x87);
        assert_eq!(code(&try_log_in(gate.mqtt, 5, "", "old", "old").await.1), 0x86);
    }
    assert_eq!(post(&gate, "/kp1/demo-v1/echo/t1/json", "x").await.status(), 200);
    assert_eq!(code(&try_log_in(gate.mqtt, 5, "", "good", "secret").await.1), 0);
    assert!(world.token_questions.load(Ordering::SeqCst) >= 20, "asked for each time");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_guesses_keeps_out_nobody_who_was_let_in_at_the_same_address_before() {
    let world = World::new().await;
    let limits = [
        ("kpc.throttle.failed_logins_per_minute_per_address", "3"),
        ("kpc.throttle.unknown_tokens_per_minute_per_address", "3"),
    ];
    let gate = world.gate(&[limits[0], limits[1], LONG[0], LONG[1]]).await;
    let logins = Logins::start(&world, &["good", "new"]).await;
    assert_eq!(post(&gate, "/kp1/demo-v1/echo/t1/json", "x").await.status(), 200);
    assert_eq!(code(&try_log_in(gate.mqtt, 5, "", "good", "secret").await.1), 0);
    for number in 0..5 {
        post(&gate, &format!("/kp1/demo-v1/echo/wrong{number}/json"), "x").await;
        try_log_in(gate.mqtt, 5, "", &format!("guess {number}"), "guess").await;
    }
    assert_eq!(post(&gate, "/kp1/demo-v1/echo/t2/json", "x").await.status(), 429);
    assert_eq!(code(&try_log_in(gate.mqtt, 5, "", "new", "secret").await.1), 0x9F);
    assert_eq!(post(&gate, "/kp1/demo-v1/echo/t1/json", "x").await.status(), 200);
    let mut again = Client::connect(gate.mqtt, 4, "").await;
    let id = again.publish("kp1/demo-v1/echo/t1/json", "x", 1).await;
    assert_eq!(again.acknowledged(id).await, 0);
    // The same token in another application is another one.
    assert_eq!(post(&gate, "/kp1/counted-v1/echo/t1/json", "x").await.status(), 429);
    assert_eq!(code(&try_log_in(gate.mqtt, 5, "", "good", "secret").await.1), 0);
    assert_eq!(code(&try_log_in(gate.mqtt, 5, "", "good", "wrong").await.1), 0x86);
    logins.set("good", 403);
    assert_eq!(code(&try_log_in(gate.mqtt, 5, "", "good", "secret").await.1), 0x87);
}

#[tokio::test(flavor = "multi_thread")]
async fn wills_guess_no_tokens() {
    let world = World::new().await;
    let limit = ("kpc.throttle.unknown_tokens_per_minute_per_address", "5");
    let gate = world.gate(&[limit, LONG[0], LONG[1]]).await;
    for number in 0..5 {
        let last = will(&format!("kp1/demo-v1/echo/wrong{number}/json"), "x");
        drop(Client::try_connect(gate.mqtt, 5, "", last).await);
    }
    let mut tokens = 1..;
    eventually("the address is not listened to", Duration::from_secs(10), async || {
        // What was good once is let in.
        let path = format!("/kp1/demo-v1/echo/t{}/json", tokens.next()?);
        (post(&gate, &path, "x").await.status() == 429).then_some(())
    })
    .await;
}
