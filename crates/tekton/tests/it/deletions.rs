//! Applications, versions and tenants that go.

use ism::Record as _;
use ism::scmp::BroadcastConfigurationUpdateEvent;
use ism::tle::UnregisteredEvent;
use serde_json::json;
use sqlx::{Connection as _, PgConnection};
use testbed::{ACME, Events, OTHER};

use crate::{config_path, create_application, create_version, document, start, told};

const APPLICATIONS: &str = "/tekton/api/v1/applications";
const DELETED: &str = "kaa.v1.events.tekton.service.configuration.delete";

type Names = (Option<String>, Option<String>, Option<String>);

async fn next(events: &mut Events) -> Names {
    let (_, event) = events.next::<BroadcastConfigurationUpdateEvent>().await;
    (event.tenant_id, event.app_name, event.app_ver_name)
}

fn names(application: &str, version: Option<&str>) -> Names {
    (Some("acme".to_owned()), Some(application.to_owned()), version.map(ToOwned::to_owned))
}

#[tokio::test]
async fn an_application_goes_with_all_that_it_has() {
    let bed = start(&[]).await;
    let rest = bed.rest(ACME);
    let app = create_application(&rest).await;
    let version = create_version(&rest, &app).await;
    let path = format!("{APPLICATIONS}/{app}");
    let body = document("dcx", &app, json!({"a": 1, "versions": {&version: {"b": 2}}}));
    rest.put(&config_path(&app), &body).await.expect(200);
    let mut deleted = Events::listen(&bed.client, DELETED).await;

    assert!(rest.delete(&path).await.refused(409).contains("cascade=true"));
    rest.delete(&format!("{path}?cascade=yes")).await.refused(400);
    bed.rest(OTHER).delete(&format!("{path}?cascade=true")).await.refused(404);
    assert_eq!(told(&bed, "dcx", &app).await.status_code, 200);
    assert_eq!(rest.delete(&format!("{path}?cascade=true")).await.status, 204);
    assert_eq!(next(&mut deleted).await, names(&app, None));
    assert_eq!(told(&bed, "dcx", &app).await.status_code, 404);
    rest.get(&path).await.refused(404);
    rest.get(&config_path(&app)).await.refused(404);
    rest.delete(&path).await.refused(404);

    let empty = create_application(&rest).await;
    assert_eq!(rest.delete(&format!("{APPLICATIONS}/{empty}")).await.status, 204);
    bed.stop().await;
}

#[tokio::test]
async fn a_version_goes_alone_and_its_name_is_not_given_again() {
    let bed = start(&[]).await;
    let rest = bed.rest(ACME);
    let app = create_application(&rest).await;
    let (one, two) = (create_version(&rest, &app).await, create_version(&rest, &app).await);
    let body = document("dcx", &app, json!({"versions": {&one: {"a": 1}, &two: {"b": 2}}}));
    rest.put(&config_path(&app), &body).await.expect(200);
    let mut deleted = Events::listen(&bed.client, DELETED).await;
    let versions = format!("{APPLICATIONS}/{app}/app-versions");
    assert_eq!(rest.delete(&format!("{versions}/{two}")).await.status, 204);
    assert_eq!(next(&mut deleted).await, names(&app, Some(&two)));
    rest.delete(&format!("{versions}/{two}")).await.refused(404);
    let left = rest.get(&config_path(&app)).await.expect(200);
    assert_eq!(left, document("dcx", &app, json!({"versions": {&one: {"a": 1}}})));

    assert_eq!(create_version(&rest, &app).await, format!("{app}-v3"));
    let again = rest.post(&versions, &json!({"nameSuffix": "v2"})).await.refused(409);
    assert!(again.contains(&two) && again.contains("30 days"), "{again}");
    bed.stop().await;
}

#[tokio::test]
async fn names_are_given_by_people_where_the_platform_does_not() {
    let bed = start(&[("tekton.app_names_auto_generation", "false")]).await;
    let rest = bed.rest(ACME);
    let named = |name: &str| json!({"name": name, "group": "Meters"});
    let made = rest.post(APPLICATIONS, &named("smart_meter")).await.expect(201);
    assert_eq!((&made["name"], &made["group"]), (&json!("smart_meter"), &json!("Meters")));
    for taken in ["smart_meter", "smart-meter"] {
        assert!(bed.rest(OTHER).post(APPLICATIONS, &named(taken)).await.refused(409).contains(taken));
    }
    for (body, word) in [
        (json!({}), "name is missing"),
        (named("A"), "1 to 64"),
        (json!({"name": "a", "group": "x".repeat(257)}), "group"),
    ] {
        assert!(rest.post(APPLICATIONS, &body).await.refused(400).contains(word), "{body}");
    }
    assert_eq!(rest.delete(&format!("{APPLICATIONS}/smart_meter")).await.status, 204);
    assert!(rest.post(APPLICATIONS, &named("smart_meter")).await.refused(409).contains("30 days"));
    bed.stop().await;
}

#[tokio::test]
async fn a_deletion_that_was_never_told_is_told_later() {
    let bed = start(&[]).await;
    let mut deleted = Events::listen(&bed.client, DELETED).await;
    // What a process leaves behind that dies between the commit and the event.
    let mut connection = PgConnection::connect(&bed.database.url).await.unwrap();
    sqlx::query(
        "INSERT INTO tekton.deletions (application_name, app_version_name, tenant_id, next_announcement_at)
         VALUES ('gone', '', 'acme', now())",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    assert_eq!(next(&mut deleted).await, names("gone", None));
    let told: (i32, bool) = sqlx::query_as(
        "SELECT announcements, next_announcement_at > now() + interval '30 seconds' FROM tekton.deletions",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    assert_eq!(told, (1, true));
    bed.stop().await;
}

#[tokio::test]
async fn what_an_unregistered_tenant_had_is_removed() {
    let bed = start(&[]).await;
    let (rest, other) = (bed.rest(ACME), bed.rest(OTHER));
    let app = create_application(&rest).await;
    create_version(&rest, &app).await;
    rest.put(&config_path(&app), &document("dcx", &app, json!({"a": 1}))).await.expect(200);
    let own = json!({"kpc": {"kaa": {"tenants": {"acme": {"config": {"b": 2}}}}}});
    rest.put("/tekton/api/v1/tenant-configs", &own).await.expect(200);
    let foreign = create_application(&other).await;
    let mut deleted = Events::listen(&bed.client, DELETED).await;
    let event = UnregisteredEvent {
        correlation_id: "c".to_owned(),
        timestamp: runtime::now_ms(),
        timeout: 0,
        tenant_id: "acme".to_owned(),
        originator_replica_id: "tm-0".to_owned(),
    };
    // Told twice, it is done once.
    for _ in 0..2 {
        bed.client.publish("kaa.v1.events.tm.tenant.lifecycle.unregistered", event.encode()).await.unwrap();
    }
    assert_eq!(next(&mut deleted).await, names(&app, None));
    assert_eq!(next(&mut deleted).await, (Some("acme".to_owned()), None, None));
    assert_eq!(rest.get(APPLICATIONS).await.expect(200), json!([]));
    assert_eq!(rest.get("/tekton/api/v1/tenant-configs").await.expect(200), json!({}));
    assert_eq!(told(&bed, "dcx", &app).await.status_code, 404);
    other.get(&format!("{APPLICATIONS}/{foreign}")).await.expect(200);
    bed.stop().await;
}
