//! What all services are told.

use ism::authorities::AuthoritiesChangedEvent;
use ism::cap::ClientCredentialsRevokedEvent;
use serde_json::json;
use sqlx::{Connection as _, PgConnection};
use testbed::{ACME, Events, Testbed};

use crate::certificates::issue;
use crate::{AUTHORITIES, BASIC, X509, scalar, set_state, start, text};

const BASIC_REVOKED: &str = "kaa.v1.events.ccm.client-credentials.basic.revoked";
const CERTIFICATE_REVOKED: &str = "kaa.v1.events.ccm.client-credentials.certificate.revoked";
const AUTHORITIES_CHANGED: &str = "kaa.v1.events.ccm.client-credentials.authorities.changed";

async fn revoked(events: &mut Events) -> String {
    let (_, event) = events.next::<ClientCredentialsRevokedEvent>().await;
    assert_eq!(event.tenant_id, "acme");
    event.credentials_id
}

async fn waiting(bed: &Testbed) -> i64 {
    scalar(bed, "SELECT count(*) FROM ccm.announcements").await
}

#[tokio::test]
async fn whatever_makes_credentials_useless_is_announced() {
    let bed = start(&[]).await;
    let rest = bed.rest(ACME);
    let mut events = Events::listen(&bed.client, BASIC_REVOKED).await;
    let id = text(&rest.post(BASIC, &json!({"username": "u"})).await.expect(201)["id"]);
    let path = format!("{BASIC}/{id}");
    set_state(&rest, BASIC, &id, "Suspended").await;
    assert_eq!(revoked(&mut events).await, id);
    // Asked for again, because the event may have been lost.
    set_state(&rest, BASIC, &id, "Suspended").await;
    assert_eq!(revoked(&mut events).await, id);
    set_state(&rest, BASIC, &id, "Active").await;
    rest.put(&format!("{path}/password"), &json!({})).await.expect(200);
    assert_eq!(revoked(&mut events).await, id);
    rest.delete(&path).await;
    assert_eq!(revoked(&mut events).await, id);
    let second = text(&rest.post(BASIC, &json!({"username": "u"})).await.expect(201)["id"]);
    set_state(&rest, BASIC, &second, "Revoked").await;
    // Nothing was said in between: no making and no reactivation.
    assert_eq!(revoked(&mut events).await, second);

    let mut events = Events::listen(&bed.client, CERTIFICATE_REVOKED).await;
    let issued = issue(&rest, "device").await;
    set_state(&rest, X509, &text(&issued["id"]), "Revoked").await;
    assert_eq!(revoked(&mut events).await, text(&issued["id"]));
    assert_eq!(waiting(&bed).await, 0);
    bed.stop().await;
}

#[tokio::test]
async fn an_authority_that_goes_is_announced_with_all_its_clients() {
    let bed = start(&[]).await;
    let rest = bed.rest(ACME);
    let mut changed = Events::listen(&bed.client, AUTHORITIES_CHANGED).await;
    let mut ids = vec![];
    for number in 0..3 {
        ids.push(text(&issue(&rest, &format!("device {number}")).await["id"]));
    }
    let (_, event) = changed.next::<AuthoritiesChangedEvent>().await;
    assert_eq!(event.tenant_id, "acme");
    let suspended = text(&issue(&rest, "suspended").await["id"]);
    set_state(&rest, X509, &suspended, "Suspended").await;
    ids.sort();

    let mut events = Events::listen(&bed.client, CERTIFICATE_REVOKED).await;
    let own = text(&rest.get(AUTHORITIES).await.expect(200)[0]["id"]);
    for state in ["Suspended", "Active", "Revoked"] {
        set_state(&rest, AUTHORITIES, &own, state).await;
        changed.next::<AuthoritiesChangedEvent>().await;
        if state != "Active" {
            let mut told = vec![];
            for _ in 0..3 {
                told.push(revoked(&mut events).await);
            }
            told.sort();
            assert_eq!(told, ids, "{state}");
        }
    }
    assert_eq!(rest.delete(&format!("{AUTHORITIES}/{own}")).await.status, 204);
    changed.next::<AuthoritiesChangedEvent>().await;
    bed.stop().await;
}

#[tokio::test]
async fn what_a_dead_process_did_not_announce_another_does() {
    let bed = start(&[]).await;
    let mut events = Events::listen(&bed.client, BASIC_REVOKED).await;
    // More than one batch of them.
    let mut connection = PgConnection::connect(&bed.database.url).await.unwrap();
    sqlx::query(
        "INSERT INTO ccm.announcements (kind, tenant_id, credentials_id, correlation_id)
         SELECT 'basic', 'acme', lpad(to_hex(number), 32, '0')::uuid, 'c' FROM generate_series(1, 1200) AS number",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    for number in 1..=1_200_u128 {
        let id = uuid::Uuid::from_u128(number).to_string();
        assert_eq!(revoked(&mut events).await, id);
    }
    let none = async || (waiting(&bed).await == 0).then_some(());
    testkit::eventually("no event left", testbed::PATIENCE, none).await;
    bed.stop().await;
}

#[tokio::test]
async fn what_cannot_be_announced_now_is_announced_later() {
    let mut bed = start(&[]).await;
    let rest = bed.rest(ACME);
    let id = text(&rest.post(BASIC, &json!({"username": "u"})).await.expect(201)["id"]);
    bed.nats.kill();
    // Whoever asks is told the truth: it is suspended, whether gateways have heard of it or not.
    assert_eq!(set_state(&rest, BASIC, &id, "Suspended").await["state"], "Suspended");
    assert_eq!(waiting(&bed).await, 1);
    bed.nats.restart().await;
    let none = async || (waiting(&bed).await == 0).then_some(());
    testkit::eventually("no event left", testbed::PATIENCE, none).await;
    bed.stop().await;
}
