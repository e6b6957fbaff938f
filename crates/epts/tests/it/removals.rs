//! Endpoints and applications that go.

use ids::InstanceName;
use ism::{BroadcastConfigurationUpdateEvent, Record as _, UnregisteredEvent, elce, scmp, tle};
use runtime::now_ms;
use serde_json::json;
use sqlx::PgPool;
use testkit::eventually;

use crate::bed::{Bed, PATIENCE, Register};

async fn unregistered(bed: &Bed, endpoint: &str) {
    let event = UnregisteredEvent {
        correlation_id: "c".to_owned(),
        timestamp: now_ms(),
        timeout: 0,
        app_version_name: "app-v1".to_owned(),
        endpoint_id: endpoint.to_owned(),
        originator_replica_id: "epr-a".to_owned(),
    };
    let subject = elce::UNREGISTERED.of(&InstanceName::parse("epr").unwrap());
    bed.client.publish(subject, event.encode()).await.unwrap();
}

async fn marked(pool: &PgPool) -> Vec<String> {
    let sql = "SELECT DISTINCT endpoint_id FROM series WHERE removed_at IS NOT NULL ORDER BY 1";
    sqlx::query_scalar(sql).fetch_all(pool).await.unwrap()
}

async fn settled(pool: &PgPool) {
    eventually("nothing is left to remove", PATIENCE, async || {
        let left: i64 = sqlx::query_scalar("SELECT count(*) FROM removals").fetch_one(pool).await.unwrap();
        (left == 0).then_some(())
    })
    .await;
}

/// For the register that the test plays, endpoints that begin with `no-` do not exist.
#[tokio::test(flavor = "multi_thread")]
async fn the_points_of_an_endpoint_go_when_its_register_says_so() {
    let bed = Bed::new(Register::from([("app", json!({}))])).await;
    let replica = bed.start(&[]).await;
    let pool = bed.sql().await;
    for endpoint in ["no-1", "stays"] {
        bed.store("app", endpoint, &[json!({"t": 1, "u": 2}), json!({"t": 3})]).await;
    }
    unregistered(&bed, "stays").await;
    unregistered(&bed, "no-1").await;
    eventually("the points are gone", PATIENCE, async || {
        replica.points("app", "no-1", "auto~t").await.is_empty().then_some(())
    })
    .await;
    settled(&pool).await;
    assert_eq!(marked(&pool).await, ["no-1"]);
    assert_eq!(replica.points("app", "stays", "auto~t").await.len(), 2);
    // The id is in use again: by a replica that remembers the series, and by one that does not.
    bed.store("app", "no-1", &[json!({"t": 4})]).await;
    assert_eq!(replica.points("app", "no-1", "auto~t").await.len(), 1);
    replica.platform.stop().await.unwrap();
    let replica = bed.start(&[]).await;
    bed.store("app", "no-1", &[json!({"t": 5})]).await;
    assert_eq!(replica.points("app", "no-1", "auto~t").await.len(), 2);
    let left = "SELECT name FROM series WHERE endpoint_id = 'no-1' AND removed_at IS NOT NULL";
    let left: Vec<String> = sqlx::query_scalar(left).fetch_all(&pool).await.unwrap();
    assert_eq!(left, ["auto~u"], "only what is used again loses the mark");
    replica.platform.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_series_that_was_removed_for_good_is_made_anew() {
    let bed = Bed::new(Register::from([("app", json!({}))])).await;
    let replica = bed.start(&[]).await;
    let pool = bed.sql().await;
    bed.store("app", "no-1", &[json!({"t": 1})]).await;
    unregistered(&bed, "no-1").await;
    eventually("it is marked", PATIENCE, async || (marked(&pool).await == ["no-1"]).then_some(())).await;
    replica.platform.stop().await.unwrap();
    // As the purge does, once nobody remembers the id.
    sqlx::query("DELETE FROM series").execute(&pool).await.unwrap();
    let replica = bed.start(&[]).await;
    bed.store("app", "no-1", &[json!({"t": 2})]).await;
    assert_eq!(replica.points("app", "no-1", "auto~t").await.len(), 1);
    replica.platform.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_removed_while_the_register_is_away() {
    let mut bed = Bed::new(Register::from([("app", json!({}))])).await;
    let replica = bed.start(&[]).await;
    let pool = bed.sql().await;
    bed.store("app", "no-1", &[json!({"t": 1})]).await;
    bed.epr = None;
    unregistered(&bed, "no-1").await;
    eventually("it is put off", PATIENCE, async || {
        let sql = "SELECT count(*) FROM removals WHERE due_at > now()";
        let waiting: i64 = sqlx::query_scalar(sql).fetch_one(&pool).await.unwrap();
        (waiting == 1).then_some(())
    })
    .await;
    assert_eq!(replica.points("app", "no-1", "auto~t").await.len(), 1);
    replica.platform.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_points_of_an_application_go_with_it() {
    let bed = Bed::new(Register::from([("app", json!({})), ("other", json!({}))])).await;
    let replica = bed.start(&[]).await;
    let pool = bed.sql().await;
    for endpoint in ["e", "f"] {
        bed.store("app", endpoint, &[json!({"t": 1})]).await;
    }
    bed.store("other", "g", &[json!({"t": 1})]).await;
    let bed = bed.without_application("app").await;
    let event = BroadcastConfigurationUpdateEvent {
        correlation_id: "c".to_owned(),
        timestamp: now_ms(),
        originator_replica_id: "tekton-a".to_owned(),
        tenant_id: Some("acme".to_owned()),
        app_name: Some("app".to_owned()),
        app_ver_name: None,
    };
    let tekton = InstanceName::parse("tekton").unwrap();
    bed.client.publish(scmp::DELETED.of(&tekton), event.encode()).await.unwrap();
    eventually("the points are gone", PATIENCE, async || (marked(&pool).await == ["e", "f"]).then_some(()))
        .await;
    let points: i64 = sqlx::query_scalar("SELECT count(*) FROM point").fetch_one(&pool).await.unwrap();
    assert_eq!(points, 1);
    // A tenant that is gone: what is still there waits for its application to go.
    let event = tle::UnregisteredEvent {
        correlation_id: "c".to_owned(),
        timestamp: now_ms(),
        timeout: 0,
        tenant_id: "acme".to_owned(),
        originator_replica_id: "tm-a".to_owned(),
    };
    let tm = InstanceName::parse("tm").unwrap();
    bed.client.publish(tle::UNREGISTERED.of(&tm), event.encode()).await.unwrap();
    eventually("it is put off", PATIENCE, async || {
        let sql = "SELECT name FROM removals WHERE due_at > now() AND due_at < now() + interval '11 seconds'";
        let waiting: Vec<String> = sqlx::query_scalar(sql).fetch_all(&pool).await.unwrap();
        (waiting == ["other"]).then_some(())
    })
    .await;
    replica.platform.stop().await.unwrap();
}
