//! Tenants.

use ism::subject::instance;
use ism::{auth, tle};
use serde_json::json;
use sqlx::{Connection as _, PgConnection};
use testbed::{Events, PATIENCE};
use testkit::eventually;

use crate::bed::{ADA_PASSWORD, Bed};

const TENANTS: &str = "/api/v2/tenants";

#[tokio::test]
async fn tenants_are_the_platforms_business() {
    let bed = Bed::start().await;
    let platform = bed.platform();
    let made = platform.post(TENANTS, &json!({"tenantId": "acme", "name": "Acme Inc."})).await;
    assert_eq!(made.location.as_deref(), Some("/api/v2/tenants/acme"));
    assert_eq!(made.expect(201)["name"], "Acme Inc.");
    platform.post(TENANTS, &json!({"tenantId": "acme"})).await.refused(409);
    platform.post(TENANTS, &json!({"tenantId": "No Id"})).await.refused(400);
    let other = bed.tenant("other").await;
    let found = async |query: &str| {
        platform.get(&format!("{TENANTS}?{query}")).await.expect(200)["totalElements"].clone()
    };
    assert_eq!(
        (found("").await, found("tenant_id=acme").await, found("name=inc").await),
        (json!(3), json!(1), json!(1))
    );
    for refused in [
        other.get(TENANTS).await,
        other.post(TENANTS, &json!({"tenantId": "third"})).await,
        other.delete("/api/v2/tenants/acme").await,
    ] {
        refused.refused(403);
    }
    other.get("/api/v2/tenants/acme").await.refused(404);
    other.put("/api/v2/tenants/acme", &json!({"name": "x"})).await.refused(404);
    assert_eq!(other.get("/api/v2/tenants/other").await.expect(200)["name"], "other");
}

#[tokio::test]
async fn a_disabled_tenant_is_shut_out_at_once() {
    let bed = Bed::start().await;
    let platform = bed.platform();
    let admin = bed.tenant("acme").await;
    let subject = tle::UPDATED.of_any();
    let mut events = Events::listen(&bed.testbed.client, &subject).await;
    assert_eq!(admin.put("/api/v2/tenants/acme", &json!({"name": "New"})).await.expect(200)["name"], "New");
    let (_, event) = events.next::<tle::UpdatedEvent>().await;
    assert_eq!(event.tenant_id, "acme");
    assert!(
        admin.put("/api/v2/tenants/acme", &json!({"enabled": false})).await.refused(403).contains("platform")
    );

    platform.put("/api/v2/tenants/acme", &json!({"enabled": false})).await.expect(200);
    assert!(admin.finds("/tm/api/v1/me", 403).await.refused(403).contains("disabled"));
    bed.try_login("acme", "ada", ADA_PASSWORD).await.refused(403);
    platform.put("/api/v2/tenants/acme", &json!({"enabled": true})).await.expect(200);
    admin.finds("/tm/api/v1/me", 200).await;
    platform.put("/api/v2/tenants/bandar", &json!({"enabled": false})).await.refused(409);
}

#[tokio::test]
async fn a_deleted_tenant_is_gone_for_good_and_all_are_told() {
    let bed = Bed::start().await;
    let platform = bed.platform();
    let admin = bed.tenant("acme").await;
    let key = admin.post("/tm/api/v1/api-keys", &json!({"name": "k", "role": "viewer"})).await.expect(201);
    let key = bed.with(key["key"].as_str().unwrap());
    key.get("/tm/api/v1/me").await.expect(200);
    let mut unregistered = Events::listen(&bed.testbed.client, &tle::UNREGISTERED.of_any()).await;
    let mut access = Events::listen(&bed.testbed.client, &auth::ACCESS_CHANGED.of_any()).await;

    platform.delete("/api/v2/tenants/acme").await.expect(204);
    let (subject, event) = unregistered.next::<tle::UnregisteredEvent>().await;
    assert_eq!(
        (subject.as_str(), event.tenant_id.as_str()),
        ("kaa.v1.events.tm.tenant.lifecycle.unregistered", "acme")
    );
    let (_, event) = access.next::<auth::AccessChangedEvent>().await;
    assert_eq!(event.tenant_id, "acme");
    assert!(event.originator_replica_id.starts_with(instance::TM));
    for caller in [&admin, &key] {
        caller.finds("/tm/api/v1/me", 401).await;
    }
    bed.try_login("acme", "ada", ADA_PASSWORD).await.refused(401);
    platform.get("/api/v2/tenants/acme").await.refused(404);
    platform.delete("/api/v2/tenants/acme").await.refused(404);
    assert!(platform.post(TENANTS, &json!({"tenantId": "acme"})).await.refused(409).contains("never"));
    platform.delete("/api/v2/tenants/bandar").await.refused(409);
}

#[tokio::test]
async fn a_deletion_that_was_cut_off_is_told_of_later() {
    let bed = Bed::start().await;
    bed.tenant("acme").await;
    // As if the process had been killed after its commit.
    let mut connection = PgConnection::connect(&bed.testbed.database.url).await.unwrap();
    let deleted = "UPDATE tm.tenants SET deleted_at = now(), enabled = false WHERE tenant_id = 'acme'";
    sqlx::query(deleted).execute(&mut connection).await.unwrap();
    let mut events = Events::listen(&bed.testbed.client, &tle::UNREGISTERED.of_any()).await;
    bed.platform().delete("/api/v2/tenants/acme").await.expect(204);
    assert_eq!(events.next::<tle::UnregisteredEvent>().await.1.tenant_id, "acme");
    bed.platform().delete("/api/v2/tenants/acme").await.refused(404);

    let again = "UPDATE tm.tenants SET unregistered_at = NULL WHERE tenant_id = 'acme'";
    sqlx::query(again).execute(&mut connection).await.unwrap();
    let settings = [("nats.url", bed.testbed.nats.url.as_str()), ("postgres.url", &bed.testbed.database.url)];
    let restarted = Bed::start_with(&settings).await;
    assert_eq!(events.next::<tle::UnregisteredEvent>().await.1.tenant_id, "acme");
    drop(restarted);

    // A service that was away when it was told hears it all the same.
    let while_ago = "UPDATE tm.tenants SET deleted_at = deleted_at - interval '2 minutes',
                         unregistered_at = now() - interval '2 minutes'
                     WHERE tenant_id = 'acme' AND unregistered_at IS NOT NULL";
    eventually("it is noted that it was told", PATIENCE, async || {
        let done = sqlx::query(while_ago).execute(&mut connection).await.unwrap();
        (done.rows_affected() == 1).then_some(())
    })
    .await;
    let _again = Bed::start_with(&settings).await;
    assert_eq!(events.next::<tle::UnregisteredEvent>().await.1.tenant_id, "acme");
}
