//! The kit itself: real servers come, come back, and go.

use std::time::Duration;

use sqlx::{Connection, PgConnection};
use testkit::eventually;

const WITHIN: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_nats_server_comes_back_on_the_same_port_with_its_streams() {
    let mut nats = testkit::nats().await;
    let client = nats.client().await;
    let jetstream = async_nats::jetstream::new(client.clone());
    let stream = async_nats::jetstream::stream::Config {
        name: "KEPT".to_owned(),
        subjects: vec!["kept.>".to_owned()],
        ..Default::default()
    };
    jetstream.create_stream(stream).await.unwrap();
    jetstream.publish("kept.1", "one".into()).await.unwrap().await.unwrap();

    nats.restart().await;

    let messages = eventually("the stream after the restart", WITHIN, async || {
        Some(jetstream.get_stream("KEPT").await.ok()?.cached_info().state.messages)
    });
    assert_eq!(messages.await, 1);
}

#[tokio::test]
async fn a_killed_nats_server_takes_no_connections() {
    let mut nats = testkit::nats().await;
    nats.kill();
    assert!(async_nats::connect(&nats.url).await.is_err());
}

#[tokio::test]
async fn each_nats_server_stands_alone() {
    let (one, other) = tokio::join!(testkit::nats(), testkit::nats());
    assert_ne!(one.url, other.url);
}

#[tokio::test]
async fn each_database_stands_alone_and_goes_when_dropped() {
    let database = testkit::database().await;
    let other = testkit::database().await;
    let mut connection = PgConnection::connect(&database.url).await.unwrap();
    sqlx::query("CREATE TABLE t (n int)").execute(&mut connection).await.unwrap();
    let mut stranger = PgConnection::connect(&other.url).await.unwrap();
    assert!(sqlx::query("SELECT n FROM t").execute(&mut stranger).await.is_err());

    let url = database.url.clone();
    drop(database);
    assert!(PgConnection::connect(&url).await.is_err());
}

#[tokio::test]
async fn connections_to_a_database_can_be_cut() {
    let database = testkit::database().await;
    let mut connection = PgConnection::connect(&database.url).await.unwrap();
    database.terminate_connections().await;
    assert!(connection.ping().await.is_err());
    assert!(PgConnection::connect(&database.url).await.is_ok());
}

#[tokio::test]
async fn a_postgres_of_its_own_keeps_what_was_committed_when_killed() {
    let mut postgres = testkit::postgres().await;
    let database = postgres.database().await;
    let mut connection = PgConnection::connect(&database.url).await.unwrap();
    sqlx::query("CREATE TABLE t AS SELECT 7 AS n").execute(&mut connection).await.unwrap();

    postgres.kill();
    assert!(PgConnection::connect(&database.url).await.is_err());
    postgres.restart().await;

    let mut connection = PgConnection::connect(&database.url).await.unwrap();
    let kept: i32 = sqlx::query_scalar("SELECT n FROM t").fetch_one(&mut connection).await.unwrap();
    assert_eq!(kept, 7);
}
