//! Tenants: each for itself, and gone when it goes.

use ism::Record as _;
use ism::cap::ClientCredentialsRevokedEvent;
use ism::tle::UnregisteredEvent;
use serde_json::json;
use testbed::{ACME, Events, OTHER};

use crate::certificates::{anchors, issue};
use crate::{AUTHORITIES, BASIC, X509, log_in, log_in_at, scalar, show_issued, start, text};

#[tokio::test]
async fn another_tenant_finds_and_changes_nothing() {
    let bed = start(&[]).await;
    let (rest, other) = (bed.rest(ACME), bed.rest(OTHER));
    let basic = rest.post(BASIC, &json!({"username": "u"})).await.expect(201);
    let issued = issue(&rest, "device").await;
    let authority = text(&rest.get(AUTHORITIES).await.expect(200)[0]["id"]);
    let things = [
        format!("{BASIC}/{}", text(&basic["id"])),
        format!("{X509}/{}", text(&issued["id"])),
        format!("{AUTHORITIES}/{authority}"),
    ];
    for path in &things {
        rest.get(path).await.expect(200);
        other.get(path).await.refused(404);
        other.put(&format!("{path}/state"), &json!({"state": "Revoked"})).await.refused(404);
        other.delete(path).await.refused(404);
        other.delete(&format!("{path}?forget=true")).await.refused(404);
    }
    other.put(&format!("{}/password", things[0]), &json!({})).await.refused(404);
    other.get(&format!("{AUTHORITIES}/{authority}/certificate")).await.refused(404);
    other.get(&format!("{AUTHORITIES}/own/certificate")).await.refused(404);
    for list in [BASIC, X509, AUTHORITIES] {
        assert_eq!(other.get(list).await.expect(200), json!([]));
    }
    let code = |rest: testbed::Rest| async move {
        rest.get(&format!("{AUTHORITIES}/registration-code")).await.expect(200)["registrationCode"].clone()
    };
    assert_ne!(code(rest.clone()).await, code(other.clone()).await);

    // The same name is another client in another tenant.
    let same = other.post(BASIC, &json!({"username": "u"})).await.expect(201);
    let (mine, theirs) = (text(&basic["password"]), text(&same["password"]));
    assert_eq!(log_in(&bed, "u", &mine).await.credentials_id, Some(text(&basic["id"])));
    assert_eq!(log_in(&bed, "u", &theirs).await.status_code, 401);
    assert_eq!(log_in_at(&bed, "other", "u", &theirs).await.credentials_id, Some(text(&same["id"])));
    assert_eq!(show_issued(&bed, &issued).await.tenant_id.as_deref(), Some("acme"));
    bed.stop().await;
}

#[tokio::test]
async fn what_a_tenant_leaves_behind_goes_with_it() {
    let bed = start(&[]).await;
    let (rest, other) = (bed.rest(ACME), bed.rest(OTHER));
    let basic = rest.post(BASIC, &json!({"username": "u"})).await.expect(201);
    let issued = issue(&rest, "device").await;
    let kept = issue(&other, "device").await;
    let mut events = Events::listen(&bed.client, "kaa.v1.events.ccm.client-credentials.*.revoked").await;
    let event = UnregisteredEvent {
        correlation_id: "c".to_owned(),
        timestamp: runtime::now_ms(),
        timeout: 0,
        tenant_id: ACME.id.to_owned(),
        originator_replica_id: "tm-0".to_owned(),
    };
    for payload in ["nonsense".into(), event.encode(), event.encode()] {
        bed.client.publish("kaa.v1.events.tm.tenant.lifecycle.unregistered", payload).await.unwrap();
    }
    let mut told = vec![];
    for _ in 0..2 {
        told.push(events.next::<ClientCredentialsRevokedEvent>().await.1.credentials_id);
    }
    assert_eq!(told, [text(&basic["id"]), text(&issued["id"])]);
    assert_eq!(log_in(&bed, "u", &text(&basic["password"])).await.status_code, 401);
    assert_eq!(show_issued(&bed, &issued).await.status_code, 401);
    assert_eq!(show_issued(&bed, &kept).await.status_code, 200);
    assert_eq!(anchors(&bed).await.len(), 1);
    for list in [BASIC, X509, AUTHORITIES] {
        assert_eq!(rest.get(list).await.expect(200), json!([]));
    }
    assert_eq!(scalar::<String>(&bed, "SELECT string_agg(tenant_id, ',') FROM ccm.tenants").await, "other");
    bed.stop().await;
}
