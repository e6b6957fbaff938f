//! Endpoints and tenants that go take their tokens with them.

use ism::ecap::EndpointTokenRevokedEvent;
use ism::tokens::{DELETE_REQUEST, EndpointTokensDeleteRequest, EndpointTokensDeleteResponse};
use ism::{Record as _, UnregisteredEvent, tle};
use serde_json::json;
use sqlx::{Connection as _, PgConnection};
use testbed::{ACME, Events, PATIENCE};

use crate::{REVOKED, Site, VANISHING, creation, instance, start, tokens_of};

async fn delete(site: &Site, tenant: &str, endpoint_id: &str) -> i32 {
    let request = EndpointTokensDeleteRequest {
        correlation_id: "c".to_owned(),
        timestamp: runtime::now_ms(),
        timeout: 10_000,
        tenant_id: tenant.to_owned(),
        app_name: "app".to_owned(),
        endpoint_id: endpoint_id.to_owned(),
    };
    let answer: EndpointTokensDeleteResponse = site.ask(DELETE_REQUEST.service(&instance()), &request).await;
    assert_eq!(answer.correlation_id, "c");
    answer.status_code
}

#[tokio::test]
async fn the_tokens_of_an_endpoint_are_deleted_when_it_is() {
    let site = start(&[]).await;
    let (first, token) = site.endpoint("e-1", "app", None).await;
    let (second, _) = site.endpoint("e-1", "app", None).await;
    let (third, _) = site.endpoint("e-1", "app", None).await;
    let status = format!("{}/{third}/status", tokens_of("e-1"));
    site.rest(ACME).put(&status, &json!({"status": "Revoked"})).await.expect(200);
    let (_, kept) = site.endpoint("e-2", "app", None).await;
    let mut revoked = Events::listen(&site.client, REVOKED).await;
    assert_eq!(delete(&site, "other", "e-1").await, 200);
    assert_eq!(site.validate("app", &token).await.status_code, 200);
    // Told twice, it is done once: the event after it is that of the other endpoint.
    for _ in 0..2 {
        assert_eq!(delete(&site, "acme", "e-1").await, 200);
    }
    let (_, mut event) = revoked.next::<EndpointTokenRevokedEvent>().await;
    event.token_ids.sort();
    assert_eq!((event.endpoint_id.as_str(), event.token_ids), ("e-1", vec![first, second]));
    assert_eq!(site.validate("app", &token).await.status_code, 404);
    assert_eq!(site.validate("app", &kept).await.status_code, 200);
    assert_eq!(delete(&site, "acme", "e-2").await, 200);
    assert_eq!(revoked.next::<EndpointTokenRevokedEvent>().await.1.endpoint_id, "e-2");
    assert_eq!(delete(&site, "acme", "a/b").await, 400);
    site.stop().await;
}

#[tokio::test]
async fn what_is_left_of_a_deleted_endpoint_goes_but_not_what_is_newer() {
    let site = start(&[]).await;
    let (_, again) = site.endpoint("e-1", "app", None).await;
    let (_, left) = site.endpoint("e-2", "app", None).await;
    let unregistered = |endpoint_id: &str, timestamp| UnregisteredEvent {
        correlation_id: "c".to_owned(),
        timestamp,
        timeout: 0,
        app_version_name: "app-v1".to_owned(),
        endpoint_id: endpoint_id.to_owned(),
        originator_replica_id: "epr-0".to_owned(),
    };
    let mut revoked = Events::listen(&site.client, REVOKED).await;
    // The first endpoint was deleted an hour ago and made again since; of the second a token was left.
    let now = runtime::now_ms();
    for event in [unregistered("e-1", now - 3_600_000), unregistered("e-2", now + 60_000)] {
        let subject = "kaa.v1.events.epr.endpoint.lifecycle.unregistered";
        site.client.publish(subject, event.encode()).await.unwrap();
    }
    // Events are taken up in order, so the first one has done nothing.
    assert_eq!(revoked.next::<EndpointTokenRevokedEvent>().await.1.endpoint_id, "e-2");
    assert_eq!(site.validate("app", &left).await.status_code, 404);
    assert_eq!(site.validate("app", &again).await.status_code, 200);
    site.stop().await;
}

#[tokio::test]
async fn a_removal_that_was_begun_is_finished() {
    let site = start(&[]).await;
    let (_, token) = site.endpoint("e-1", "app", None).await;
    // What a process leaves behind that is killed before the tokens are gone.
    let mut connection = PgConnection::connect(&site.database.url).await.unwrap();
    let remember = "INSERT INTO cm.tenant_removals (tenant_id) VALUES ('acme')";
    sqlx::query(remember).execute(&mut connection).await.unwrap();
    let gone = async || (site.validate("app", &token).await.status_code == 404).then_some(());
    testkit::eventually("the token is gone", PATIENCE, gone).await;
    let mut finished = async || {
        let left: i64 = sqlx::query_scalar("SELECT count(*) FROM cm.tenant_removals")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        (left == 0).then_some(())
    };
    testkit::eventually("the removal is done", PATIENCE, &mut finished).await;
    let (_, token) = site.endpoint("e-1", "app", None).await;
    assert_eq!(site.validate("app", &token).await.status_code, 200);
    site.stop().await;
}

#[tokio::test]
async fn the_tokens_of_an_unregistered_tenant_go() {
    let site = start(&[]).await;
    let mut tokens = Vec::new();
    for number in 0..5 {
        tokens.push(site.endpoint(&format!("e-{number}"), "app", None).await.1);
    }
    let foreign = ism::EndpointTokenCreateRequest {
        tenant_id: "other".to_owned(),
        ..creation("app2", "f", Some("foreign"))
    };
    assert_eq!(site.create(&foreign).await.status_code, 201);
    let mut revoked = Events::listen(&site.client, REVOKED).await;
    let event = tle::UnregisteredEvent {
        correlation_id: "c".to_owned(),
        timestamp: runtime::now_ms(),
        timeout: 0,
        tenant_id: "acme".to_owned(),
        originator_replica_id: "tm-0".to_owned(),
    };
    site.client.publish("kaa.v1.events.tm.tenant.lifecycle.unregistered", event.encode()).await.unwrap();
    let mut told = Vec::new();
    for _ in 0..5 {
        told.push(revoked.next::<EndpointTokenRevokedEvent>().await.1.endpoint_id);
    }
    told.sort();
    assert_eq!(told, ["e-0", "e-1", "e-2", "e-3", "e-4"]);
    for token in &tokens {
        assert_eq!(site.validate("app", token).await.status_code, 404);
    }
    assert_eq!(site.validate("app2", "foreign").await.status_code, 200);
    site.stop().await;
}

#[tokio::test]
async fn an_endpoint_that_is_deleted_meanwhile_gets_no_token() {
    let bed = start(&[]).await;
    bed.register(VANISHING, "app");
    let wish = json!({"applicationName": "app", "token": "wish"});
    bed.rest(ACME).post(&tokens_of(VANISHING), &wish).await.refused(404);
    assert_eq!(bed.validate("app", "wish").await.status_code, 404);
    bed.stop().await;
}
