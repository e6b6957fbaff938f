//! Things, commanders and groups over REST.

use ism::{Record as _, UnregisteredEvent, tle};
use runtime::now_ms;
use serde_json::{Value, json};
use testbed::PATIENCE;

use super::{APPLICATION, DEVICE, FILTER, OTHER_DEVICE, REQUESTS, Site, packet};

const THINGS: &str = "/cex/api/v1/things";
const COMMANDERS: &str = "/cex/api/v1/commanders";
const GROUPS: &str = "/cex/api/v1/groups";

fn names(page: &Value, member: &str) -> Vec<String> {
    let content = page["content"].as_array().unwrap();
    assert_eq!(page["totalElements"], content.len());
    content.iter().map(|element| element[member].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn things_are_kept_and_found() {
    let site = Site::start(&[]).await;
    let acme = site.acme();
    let thing = acme.get(&format!("{THINGS}/device1")).await.expect(200);
    assert_eq!(thing["endpointId"], "m1");
    assert_eq!(thing["applicationName"], "meter");
    assert_eq!(thing["credentialsIds"], json!([DEVICE]));
    assert!(thing["createdDate"].is_string());
    assert_eq!(names(&acme.get(THINGS).await.expect(200), "thingName"), ["device1", "device2"]);
    let of_endpoint = acme.get(&format!("{THINGS}?endpointId=m2")).await.expect(200);
    assert_eq!(names(&of_endpoint, "thingName"), ["device2"]);
    assert_eq!(names(&site.other().get(THINGS).await.expect(200), "thingName"), Vec::<String>::new());
    site.other().get(&format!("{THINGS}/device1")).await.refused(404);
    site.other().delete(&format!("{THINGS}/device1")).await.refused(404);

    // One client is one thing; the same thing may be told again, and differently.
    let taken = json!({"endpointId": "m3", "credentialsIds": [DEVICE]});
    let message = acme.put(&format!("{THINGS}/device3"), &taken).await.refused(409);
    assert!(message.contains(DEVICE), "{message}");
    acme.get(&format!("{THINGS}/device3")).await.refused(404);
    let both = json!({"endpointId": "m1", "credentialsIds": [DEVICE, APPLICATION]});
    let thing = acme.put(&format!("{THINGS}/device1"), &both).await.expect(200);
    assert_eq!(thing["credentialsIds"], json!([DEVICE, APPLICATION]));
    acme.put(&format!("{THINGS}/device1"), &json!({"endpointId": "m1"})).await.expect(200);
    acme.put(&format!("{THINGS}/device3"), &taken).await.expect(200);

    // No name of another endpoint, no endpoint of nobody or of another tenant, no odd name.
    acme.put(&format!("{THINGS}/m7"), &json!({"endpointId": "m1"})).await.refused(409);
    acme.put(&format!("{THINGS}/m1"), &json!({"endpointId": "m1"})).await.expect(200);
    acme.put(&format!("{THINGS}/x"), &json!({"endpointId": "nobody"})).await.refused(404);
    acme.put(&format!("{THINGS}/x"), &json!({"endpointId": "f1"})).await.refused(404);
    acme.put(&format!("{THINGS}/x%2Fy"), &json!({"endpointId": "m1"})).await.refused(400);
    acme.put(&format!("{THINGS}/x"), &json!({"endpointId": "m1", "credentialsIds": ["me"]}))
        .await
        .refused(400);
    let many = vec![DEVICE; 17];
    let message =
        acme.put(&format!("{THINGS}/x"), &json!({"endpointId": "m1", "credentialsIds": many})).await;
    assert!(message.refused(400).contains("16"));

    acme.delete(&format!("{THINGS}/device1")).await.expect(204);
    acme.delete(&format!("{THINGS}/device1")).await.refused(404);
    site.stop().await;
}

#[tokio::test]
async fn a_name_that_goes_to_another_endpoint_takes_no_commands_along() {
    let mut site = Site::start(&[]).await;
    assert_eq!(site.subscribe(DEVICE, REQUESTS).await, 200);
    let other = json!({"endpointId": "m4", "credentialsIds": [DEVICE]});
    site.acme().put(&format!("{THINGS}/device1"), &other).await.expect(200);
    // Commands for the endpoint do not come at the topic that was its own.
    assert_eq!(site.publish(APPLICATION, "cmd/m1/req", "for m1", packet(1)).await, 200);
    assert_eq!(site.publish(APPLICATION, REQUESTS, "for m4", packet(2)).await, 200);
    assert_eq!(site.subscribe(DEVICE, REQUESTS).await, 200);
    assert_eq!(site.next(REQUESTS).await.payload, "for m4");
    assert_eq!(site.last("m1", "cmd", "CREATED").await["attempts"].as_i64().map(|it| it < 3), Some(true));
    site.stop().await;
}

#[tokio::test]
async fn an_endpoint_that_loses_a_name_listens_on_under_its_other() {
    let mut site = Site::start(&[]).await;
    for topic in [REQUESTS, "floor/request"] {
        assert_eq!(site.subscribe(DEVICE, topic).await, 200);
    }
    let lamp = format!("{THINGS}/lamp");
    let spare = "00000000-0000-4000-8000-000000000003";
    site.acme().put(&lamp, &json!({"endpointId": "m1", "credentialsIds": [spare]})).await.expect(200);
    site.acme().delete(&lamp).await.expect(204);
    site.command("on", packet(1)).await;
    assert_eq!(site.next(REQUESTS).await.payload, "on");
    let invoke = "/cex/api/v1/endpoints/m1/commands/floor?awaitTimeout=0";
    site.acme().post(invoke, &json!("report")).await.expect(202);
    assert_eq!(site.next("floor/request").await.payload, "\"report\"");
    site.stop().await;
}

#[tokio::test]
async fn commanders_and_groups_are_kept_and_found() {
    let site = Site::start(&[]).await;
    let acme = site.acme();
    let commander = format!("{COMMANDERS}/{APPLICATION}");
    assert_eq!(acme.get(&commander).await.expect(200)["applicationNames"], Value::Null);
    let limited = json!({"applicationNames": ["meter"]});
    assert_eq!(acme.put(&commander, &limited).await.expect(200)["applicationNames"], json!(["meter"]));
    assert_eq!(names(&acme.get(COMMANDERS).await.expect(200), "credentialsId"), [APPLICATION]);
    site.other().get(&commander).await.refused(404);
    acme.put(&commander, &json!({"applicationNames": []})).await.refused(400);
    acme.put(&format!("{COMMANDERS}/me"), &json!({})).await.refused(400);
    acme.delete(&commander).await.expect(204);
    acme.delete(&commander).await.refused(404);

    let group = acme.get(&format!("{GROUPS}/floor")).await.expect(200);
    assert_eq!((&group["filterId"], &group["applicationName"]), (&json!(FILTER), &json!("meter")));
    assert_eq!(names(&acme.get(GROUPS).await.expect(200), "groupName"), ["floor"]);
    site.other().get(&format!("{GROUPS}/floor")).await.refused(404);
    let body = json!({"filterId": FILTER, "applicationName": "meter"});
    for name in ["cmd", "kp1", FILTER, "a%20b"] {
        acme.put(&format!("{GROUPS}/{name}"), &body).await.refused(400);
    }
    for application in ["foreign", "nowhere"] {
        let body = json!({"filterId": FILTER, "applicationName": application});
        acme.put(&format!("{GROUPS}/attic"), &body).await.refused(404);
    }
    acme.delete(&format!("{GROUPS}/floor")).await.expect(204);
    acme.get(&format!("{GROUPS}/floor")).await.refused(404);
    site.stop().await;
}

#[tokio::test]
async fn what_is_gone_leaves_no_name_behind() {
    let site = Site::start(&[]).await;
    let acme = site.acme();
    let gone = UnregisteredEvent {
        correlation_id: "correlation-1".to_owned(),
        timestamp: now_ms() + 1_000,
        timeout: 0,
        app_version_name: "meter-v1".to_owned(),
        endpoint_id: "m1".to_owned(),
        originator_replica_id: "epr-0".to_owned(),
    };
    let client = &site.testbed.client;
    client.publish("kaa.v1.events.epr.endpoint.lifecycle.unregistered", gone.encode()).await.unwrap();
    let is_gone = async || (acme.get(&format!("{THINGS}/device1")).await.status == 404).then_some(());
    testkit::eventually("the thing of the endpoint is gone", PATIENCE, is_gone).await;
    assert_eq!(names(&acme.get(THINGS).await.expect(200), "thingName"), ["device2"]);
    let free = json!({"endpointId": "m3", "credentialsIds": [DEVICE]});
    acme.put(&format!("{THINGS}/device3"), &free).await.expect(200);

    let gone = tle::UnregisteredEvent {
        correlation_id: "correlation-1".to_owned(),
        timestamp: now_ms(),
        timeout: 0,
        tenant_id: "acme".to_owned(),
        originator_replica_id: "tm-0".to_owned(),
    };
    client.publish("kaa.v1.events.tm.tenant.lifecycle.unregistered", gone.encode()).await.unwrap();
    let all_gone = async || {
        let mut left = 0;
        for register in [THINGS, COMMANDERS, GROUPS] {
            left += acme.get(register).await.expect(200)["totalElements"].as_i64().unwrap();
        }
        (left == 0).then_some(())
    };
    testkit::eventually("all that the tenant had is gone", PATIENCE, all_gone).await;
    assert_eq!(site.subscribe(OTHER_DEVICE, "cmd/device2/req").await, 403);
    site.stop().await;
}
