//! Endpoints that come and go.

use ism::elce::{CONNECTED_HERE_TOO, UNREGISTERED};
use ism::{Record as _, UnregisteredEvent};
use runtime::now_ms;
use serde_json::json;
use testbed::PATIENCE;
use testkit::eventually;

use crate::bed::{Bed, connected_event, iso8601};

#[tokio::test(flavor = "multi_thread")]
async fn a_transition_is_told_as_metadata_and_as_a_point() {
    let bed = Bed::new().await;
    let (_epr, _receiver) = (bed.epr().await, bed.receiver().await);
    let epl = bed.start(&[]).await;
    let t = now_ms() - 60_000;
    bed.connected("kpc-a", t, &["e1", "e2"]).await;
    bed.shows("e1", true, t).await;
    bed.shows("e2", true, t).await;
    bed.disconnected("kpc-a", t + 1_500, &["e1"]).await;
    bed.shows("e1", false, t + 1_500).await;
    bed.has_points("e1", &[(t, 1), (t + 1_500, 0)]).await;
    bed.has_points("e2", &[(t, 1)]).await;
    let (status, body) = bed.connectivity(&epl, "e1").await;
    let expected = json!({"endpointId": "e1", "connected": false, "changedDate": iso8601(t + 1_500)});
    assert_eq!((status, body), (200, expected));
    assert_eq!(bed.connectivity(&epl, "nobody").await.0, 404);
    epl.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_an_old_session_does_not_end_a_newer_one() {
    let bed = Bed::new().await;
    let (_epr, _receiver) = (bed.epr().await, bed.receiver().await);
    let epl = bed.start(&[]).await;
    let t = now_ms() - 60_000;
    bed.connected("kpc-a", t, &["e"]).await;
    bed.connected("kpc-b", t + 10, &["e"]).await;
    // Found out late, by the keep-alive; and what was said before comes after.
    bed.disconnected("kpc-a", t + 20_000, &["e"]).await;
    bed.connected("kpc-a", t + 5, &["e"]).await;
    bed.disconnected("kpc-b", t + 30_000, &["e"]).await;
    bed.shows("e", false, t + 30_000).await;
    bed.has_points("e", &[(t, 1), (t + 30_000, 0)]).await;
    assert_eq!(bed.world.lock().states["e"].last(), Some(&false));
    epl.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_configured_is_not_told() {
    let bed = Bed::new().await;
    let (_epr, _receiver) = (bed.epr().await, bed.receiver().await);
    let epl = bed.start(&[]).await;
    let t = now_ms() - 60_000;
    bed.connected("kpc-a", t, &["plain"]).await;
    bed.connected("kpc-a", t, &["e"]).await;
    bed.shows("e", true, t).await;
    bed.has_points("e", &[(t, 1)]).await;
    assert_eq!(bed.connectivity(&epl, "plain").await.1["connected"], json!(true));
    let is_told = |world: &crate::bed::World| {
        world.metadata.contains_key("plain") || world.points.contains_key("plain")
    };
    assert!(!is_told(&bed.world.lock()));
    epl.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_endpoint_does_not_hold_up_the_others() {
    let bed = Bed::new().await;
    let (_epr, _receiver) = (bed.epr().await, bed.receiver().await);
    let epl = bed.start(&[("epl.metadata_writers", "1")]).await;
    let t = now_ms() - 60_000;
    let many: Vec<String> = (0..50).map(|number| format!("e{number}")).collect();
    let all: Vec<&str> = many.iter().map(String::as_str).chain(["gone-1", "bad-1", "broken-1"]).collect();
    bed.connected("kpc-a", t, &all).await;
    for id in &many {
        bed.shows(id, true, t).await;
    }
    // The first two are left at that, the last is tried again and again.
    let pool = sql(&bed).await;
    eventually("nothing else waits", PATIENCE, async || {
        let waiting: Vec<String> =
            sqlx::query_scalar("SELECT endpoint_id FROM endpoints WHERE metadata_pending")
                .fetch_all(&pool)
                .await
                .unwrap();
        (waiting == ["broken-1"]).then_some(())
    })
    .await;
    epl.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_may_come_back_at_once() {
    let bed = Bed::new().await;
    let (_epr, _receiver) = (bed.epr().await, bed.receiver().await);
    let epl = bed.start(&[]).await;
    let t = now_ms() - 60_000;
    let all: Vec<String> = (0..3_000).map(|number| format!("e{number}")).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    for part in all.chunks(1_000) {
        bed.connected("kpc-a", t, part).await;
    }
    eventually("all are told", PATIENCE * 3, async || {
        let world = bed.world.lock();
        (world.metadata.len() == all.len() && world.points.len() == all.len()).then_some(())
    })
    .await;
    assert!(bed.world.lock().requests < 300, "they are written together");
    epl.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_gateway_announces_after_a_loss_of_nats_counts_too() {
    let bed = Bed::new().await;
    let (_epr, _receiver) = (bed.epr().await, bed.receiver().await);
    let epl = bed.start(&[]).await;
    let t = now_ms() - 60_000;
    bed.client.publish(CONNECTED_HERE_TOO.at("kpc"), connected_event("kpc-a", t, &["e"])).await.unwrap();
    bed.shows("e", true, t).await;
    epl.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_kept_of_a_deleted_endpoint() {
    let bed = Bed::new().await;
    let epl = bed.start(&[]).await;
    bed.connected("kpc-a", now_ms(), &["e", "f"]).await;
    eventually("they are known", PATIENCE, async || {
        (bed.connectivity(&epl, "f").await.0 == 200).then_some(())
    })
    .await;
    let event = UnregisteredEvent {
        correlation_id: "c".to_owned(),
        timestamp: now_ms(),
        timeout: 0,
        app_version_name: "demo-v1".to_owned(),
        endpoint_id: "e".to_owned(),
        originator_replica_id: "epr-a".to_owned(),
    };
    let subject = UNREGISTERED.of(&ids::InstanceName::parse("epr").unwrap());
    bed.client.publish(subject, event.encode()).await.unwrap();
    let pool = sql(&bed).await;
    for table in ["endpoints", "presences", "points"] {
        eventually(table, PATIENCE, async || {
            let query = format!("SELECT endpoint_id FROM {table}");
            let left: Vec<String> =
                sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_all(&pool).await.unwrap();
            (left == ["f"]).then_some(())
        })
        .await;
    }
    epl.stop().await.unwrap();
}

async fn sql(bed: &Bed) -> sqlx::PgPool {
    let options: sqlx::postgres::PgConnectOptions = bed.database.url.parse().unwrap();
    sqlx::PgPool::connect_with(options.options([("search_path", "epl")])).await.unwrap()
}
