//! Endpoints and tenants that go.

use ids::InstanceName;
use ism::{Record as _, elce, tle};
use runtime::now_ms;
use testbed::PATIENCE;
use testkit::eventually;

use crate::delivery::bed::{Bed, ENDPOINT, outcome};

#[tokio::test(flavor = "multi_thread")]
async fn commands_of_a_deleted_endpoint_are_cancelled() {
    let bed = Bed::start(&[]).await;
    let mut caller = bed.invoke("reboot", None, 600_000).await;
    bed.reaches("reboot", 1, "CREATED").await;
    let event = elce::UnregisteredEvent {
        correlation_id: "c".to_owned(),
        timestamp: now_ms(),
        timeout: 0,
        app_version_name: "elsewhere-v1".to_owned(),
        endpoint_id: ENDPOINT.to_owned(),
        originator_replica_id: "epr-1".to_owned(),
    };
    // The register tells it several times.
    for _ in 0..2 {
        let subject = elce::UNREGISTERED.of(&InstanceName::parse("epr").unwrap());
        bed.publish(subject, event.encode()).await;
    }
    let result = outcome(&mut caller).await;
    assert_eq!(result.status_code, 410, "{result:?}");
    assert_eq!(bed.states("reboot", 1).await.last().unwrap(), "CANCELLED");
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_a_tenant_that_is_gone() {
    let bed = Bed::start(&[]).await;
    for number in 1..=3 {
        let _caller = bed.invoke("reboot", None, 600_000).await;
        bed.reaches("reboot", number, "CREATED").await;
    }
    let event = tle::UnregisteredEvent {
        correlation_id: "c".to_owned(),
        timestamp: now_ms(),
        timeout: 0,
        tenant_id: "acme".to_owned(),
        originator_replica_id: "tm-1".to_owned(),
    };
    bed.publish(tle::UNREGISTERED.of(&InstanceName::parse("tm").unwrap()), event.encode()).await;
    let left = "SELECT (SELECT count(*) FROM cex.commands) + (SELECT count(*) FROM cex.lanes) \
                + (SELECT count(*) FROM cex.transitions) + (SELECT count(*) FROM cex.idempotency_keys)";
    eventually("everything is removed", PATIENCE, async || {
        let left: i64 = sqlx::query_scalar(left).fetch_one(&bed.sql).await.unwrap();
        (left == 0).then_some(())
    })
    .await;
    bed.stop().await;
}
