//! The application version of endpoints.

use ids::InstanceName;
use ism::Record as _;
use ism::elce::{AppVersionUpdatedEvent, CONNECTED, ConnectedEvent};
use serde_json::json;
use testbed::{ACME, Events, OTHER, Testbed};

use crate::{Cm, ENDPOINTS, PlayedCm, register, start};

const UPDATED: &str = "kaa.v1.events.*.endpoint.lifecycle.appversion-updated";

async fn version(bed: &Testbed, endpoint_id: &str) -> String {
    let version = bed.rest(ACME).get(&format!("{ENDPOINTS}/{endpoint_id}/app-version")).await.expect(200);
    version["name"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_endpoint_moves_within_its_application() {
    let (bed, _tekton) = start(&[]).await;
    let _cm = PlayedCm::start(&bed, Cm::Makes).await;
    register(&bed, "app-v1", "e", json!({})).await;
    let mut events = Events::listen(&bed.client, UPDATED).await;
    let rest = bed.rest(ACME);
    let path = format!("{ENDPOINTS}/e/app-version");
    let before = rest.get(&path).await.expect(200);
    assert_eq!(rest.put(&path, &json!({"name": "app-v1"})).await.expect(200), before);
    let after = rest.put(&path, &json!({"name": "app-v2"})).await.expect(200);
    assert_eq!(after["name"], "app-v2");
    assert!(after["registeredDate"].as_str() > before["registeredDate"].as_str());
    let (subject, event) = events.next::<AppVersionUpdatedEvent>().await;
    assert_eq!(subject, "kaa.v1.events.epr.endpoint.lifecycle.appversion-updated");
    assert_eq!(
        (
            event.endpoint_id.as_str(),
            event.previous_app_version_name.as_str(),
            event.app_version_name.as_str()
        ),
        ("e", "app-v1", "app-v2")
    );
    assert!(rest.put(&path, &json!({"name": "more-v1"})).await.refused(400).contains("application app"));
    for unknown in ["none-v1", "foreign-v1"] {
        rest.put(&path, &json!({"name": unknown})).await.refused(404);
    }
    bed.rest(OTHER).put(&path, &json!({"name": "foreign-v1"})).await.refused(404);
    assert_eq!(version(&bed, "e").await, "app-v2");
    bed.stop().await;
}

#[tokio::test]
async fn the_version_that_a_device_reports_is_followed() {
    let (bed, _tekton) = start(&[]).await;
    let _cm = PlayedCm::start(&bed, Cm::Makes).await;
    for endpoint_id in ["a", "b", "c"] {
        register(&bed, "app-v1", endpoint_id, json!({})).await;
    }
    let mut events = Events::listen(&bed.client, UPDATED).await;
    let endpoints = [("a", "more-v1"), ("b", "app-v1"), ("c", "app-v2"), ("d", "app-v2"), ("x/", "app-v2")];
    let event = ConnectedEvent {
        correlation_id: "c".to_owned(),
        timestamp: runtime::now_ms(),
        timeout: 0,
        endpoints: endpoints.iter().map(|(id, version)| ((*id).to_owned(), (*version).to_owned())).collect(),
        originator_replica_id: "kpc-0".to_owned(),
    };
    let subject = CONNECTED.of(&InstanceName::parse("kpc").unwrap());
    bed.client.publish(subject, event.encode()).await.unwrap();
    let (_, event) = events.next::<AppVersionUpdatedEvent>().await;
    assert_eq!((event.endpoint_id.as_str(), event.app_version_name.as_str()), ("c", "app-v2"));
    assert_eq!(
        (version(&bed, "a").await, version(&bed, "c").await),
        ("app-v1".to_owned(), "app-v2".to_owned())
    );
    bed.stop().await;
}
