//! The life of tokens over REST, and who is told of it.

use ism::Record as _;
use ism::ecap::EndpointTokenRevokedEvent;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use testbed::{ACME, Answer, Events, PATIENCE};

use crate::{REVOKED, Site, start, text, tokens_of};

async fn put(site: &Site, endpoint_id: &str, token_id: &str, status: &str) -> Answer {
    let path = format!("{}/{token_id}/status", tokens_of(endpoint_id));
    site.rest(ACME).put(&path, &json!({ "status": status })).await
}

async fn next(events: &mut Events) -> (String, Vec<String>) {
    let (subject, event) = events.next::<EndpointTokenRevokedEvent>().await;
    assert_eq!(subject, "kaa.v1.events.cm.endpoint.token.revoked");
    (event.endpoint_id, event.token_ids)
}

#[tokio::test]
async fn a_token_is_suspended_reactivated_and_revoked() {
    let site = start(&[]).await;
    let (id, token) = site.endpoint("e-1", "app", None).await;
    let mut revoked = Events::listen(&site.client, REVOKED).await;
    let told = ("e-1".to_owned(), vec![id.clone()]);
    // One that was never used can be suspended too.
    let suspended = put(&site, "e-1", &id, "Suspended").await.expect(200);
    assert_eq!((&suspended["status"], &suspended["endpointTokenId"]), (&json!("Suspended"), &json!(id)));
    let since = text(&suspended["updateDate"]);
    assert_eq!(next(&mut revoked).await, told);
    assert_eq!(site.validate("app", &token).await.status_code, 403);
    // The same again is fine, changes nothing, and is told again: who repeats it has seen no effect.
    let again = put(&site, "e-1", &id, "Suspended").await.expect(200);
    assert_eq!(text(&again["updateDate"]), since);
    assert_eq!(next(&mut revoked).await, told);

    assert_eq!(put(&site, "e-1", &id, "Active").await.expect(200)["status"], "Active");
    assert_eq!(site.validate("app", &token).await.status_code, 200);
    let message = put(&site, "e-1", &id, "Inactive").await.refused(409);
    assert!(message.contains("Active") && message.contains("Inactive"), "{message}");
    put(&site, "e-1", &id, "Revoked").await.expect(200);
    assert_eq!(next(&mut revoked).await, told);
    assert_eq!(site.validate("app", &token).await.status_code, 403);
    for status in ["Active", "Suspended", "Inactive"] {
        let message = put(&site, "e-1", &id, status).await.refused(409);
        assert!(message.contains("Revoked") && message.contains(status), "{message}");
    }
    assert_eq!(site.rest(ACME).get(&tokens_of("e-1")).await.expect(200)["content"][0]["status"], "Revoked");
    for status in ["revoked", ""] {
        put(&site, "e-1", &id, status).await.refused(400);
    }
    for unknown in ["no-uuid", "00000000-0000-7000-8000-000000000000"] {
        assert!(put(&site, "e-1", unknown, "Revoked").await.refused(404).contains(unknown));
    }
    put(&site, "e-2", &id, "Revoked").await.refused(404);
    site.stop().await;
}

#[tokio::test]
async fn a_deleted_token_is_unknown_and_its_text_free() {
    let site = start(&[]).await;
    let rest = site.rest(ACME);
    let (id, token) = site.endpoint("e-1", "app", Some("wish")).await;
    let (other, _) = site.endpoint("e-1", "app", None).await;
    assert_eq!(site.validate("app", &token).await.status_code, 200);
    let mut revoked = Events::listen(&site.client, REVOKED).await;
    put(&site, "e-1", &other, "Revoked").await.expect(200);
    assert_eq!(next(&mut revoked).await, ("e-1".to_owned(), vec![other.clone()]));
    let path = format!("{}/{id}", tokens_of("e-1"));
    // What was useless before is told to nobody: the next event is that of the other token.
    assert_eq!(rest.delete(&format!("{}/{other}", tokens_of("e-1"))).await.status, 204);
    assert_eq!(rest.delete(&path).await.status, 204);
    assert_eq!(next(&mut revoked).await, ("e-1".to_owned(), vec![id.clone()]));
    assert_eq!(site.validate("app", &token).await.status_code, 404);
    rest.get(&path).await.refused(404);
    rest.delete(&path).await.refused(404);
    assert_eq!(rest.get(&tokens_of("e-1")).await.expect(200)["totalElements"], 0);
    site.endpoint("e-2", "app", Some("wish")).await;
    assert_eq!(site.validate("app", "wish").await.endpoint_id.as_deref(), Some("e-2"));
    site.stop().await;
}

#[tokio::test]
async fn of_two_moves_at_once_the_second_sees_the_first() {
    let site = start(&[]).await;
    for round in 0..10 {
        let endpoint_id = format!("e-{round}");
        let (id, token) = site.endpoint(&endpoint_id, "app", None).await;
        assert_eq!(site.validate("app", &token).await.status_code, 200);
        put(&site, &endpoint_id, &id, "Suspended").await.expect(200);
        let (active, revoked) =
            tokio::join!(put(&site, &endpoint_id, &id, "Active"), put(&site, &endpoint_id, &id, "Revoked"));
        // Whichever came first, nothing leads out of Revoked.
        assert_eq!(revoked.status, 200);
        assert!([200, 409].contains(&active.status), "{active:?}");
        assert_eq!(site.validate("app", &token).await.status_code, 403);
    }
    site.stop().await;
}

#[tokio::test]
async fn a_first_use_does_not_bring_back_what_is_revoked() {
    let site = start(&[]).await;
    for round in 0..20 {
        let endpoint_id = format!("e-{round}");
        let (id, token) = site.endpoint(&endpoint_id, "app", None).await;
        let uses = futures::future::join_all((0..4).map(|_| site.validate("app", &token)));
        let (answers, revoked) = tokio::join!(uses, put(&site, &endpoint_id, &id, "Revoked"));
        assert_eq!(revoked.expect(200)["status"], "Revoked");
        assert!(answers.iter().all(|answer| [200, 403].contains(&answer.status_code)));
        assert_eq!(site.validate("app", &token).await.status_code, 403);
        let kept = site.rest(ACME).get(&format!("{}/{id}", tokens_of(&endpoint_id))).await.expect(200);
        assert_eq!(kept["status"], "Revoked");
    }
    site.stop().await;
}

async fn pending(connection: &mut PgConnection) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM cm.revocations").fetch_one(connection).await.unwrap()
}

#[tokio::test]
async fn a_revocation_is_told_until_it_has_been_told() {
    let site = start(&[]).await;
    let mut connection = PgConnection::connect(&site.database.url).await.unwrap();
    let (id, _) = site.endpoint("e-1", "app", None).await;
    let mut revoked = Events::listen(&site.client, REVOKED).await;
    put(&site, "e-1", &id, "Revoked").await.expect(200);
    next(&mut revoked).await;
    let none = async || (pending(&mut connection).await == 0).then_some(());
    testkit::eventually("the revocation is forgotten", PATIENCE, none).await;

    // What a process leaves behind that is killed between the commit and the event.
    sqlx::query(
        "INSERT INTO cm.revocations (revocation_id, correlation_id, application_name, endpoint_id, token_ids, due_at)
         VALUES ('00000000-0000-7000-8000-000000000001', 'c-7', 'app', 'e-9',
                 ARRAY['00000000-0000-7000-8000-000000000002'::uuid], now())",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    let (_, event) = revoked.next::<EndpointTokenRevokedEvent>().await;
    assert_eq!((event.correlation_id.as_str(), event.app_name.as_str()), ("c-7", "app"));
    assert_eq!((event.endpoint_id.as_str(), event.token_ids.len()), ("e-9", 1));
    let none = async || (pending(&mut connection).await == 0).then_some(());
    testkit::eventually("the revocation is forgotten", PATIENCE, none).await;
    site.stop().await;
}

#[tokio::test]
async fn what_others_say_forgets_no_revocation() {
    let site = start(&[]).await;
    let mut connection = PgConnection::connect(&site.database.url).await.unwrap();
    sqlx::query(
        "INSERT INTO cm.revocations (revocation_id, correlation_id, application_name, endpoint_id, token_ids, due_at)
         VALUES ('00000000-0000-7000-8000-000000000001', 'c-7', 'app', 'e-9', '{}', now() + interval '1 hour')",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    let event =
        EndpointTokenRevokedEvent { originator_replica_id: "cm-other".to_owned(), ..Default::default() };
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("bandar-revocation-id", "00000000-0000-7000-8000-000000000001");
    let subject = "kaa.v1.events.cm.endpoint.token.revoked";
    site.client.publish_with_headers(subject, headers, event.encode()).await.unwrap();
    // Its own event comes after that one and is forgotten.
    let (id, _) = site.endpoint("e-1", "app", None).await;
    put(&site, "e-1", &id, "Revoked").await.expect(200);
    let one = async || (pending(&mut connection).await == 1).then_some(());
    testkit::eventually("one revocation is left", PATIENCE, one).await;
    let left: Value = json!(
        sqlx::query_scalar::<_, String>("SELECT endpoint_id FROM cm.revocations")
            .fetch_all(&mut connection)
            .await
            .unwrap()
    );
    assert_eq!(left, json!(["e-9"]));
    site.stop().await;
}
