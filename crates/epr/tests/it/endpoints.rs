//! Lists of endpoints, and where an endpoint belongs.

use ids::InstanceName;
use ism::endpoints::{EndpointGetRequest, EndpointGetResponse, GET_REQUEST};
use serde_json::{Value, json};
use testbed::{ACME, OTHER, Testbed};

use crate::{Cm, ENDPOINTS, PlayedCm, start};

async fn register(bed: &Testbed, version: &str, endpoint_id: &str) {
    let tenant = if version.starts_with("foreign") { OTHER } else { ACME };
    let body =
        json!({"appVersion": {"name": version}, "endpointId": endpoint_id, "metadata": {"id": endpoint_id}});
    let made = bed.rest(tenant).post(ENDPOINTS, &body).await;
    assert_eq!(made.status, 201, "{}", made.body);
}

fn ids(list: &Value) -> Vec<&str> {
    list["content"]
        .as_array()
        .unwrap()
        .iter()
        .map(|endpoint| endpoint["endpointId"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn lists_are_filtered_paged_and_the_tenants_own() {
    let (bed, _tekton) = start(&[]).await;
    let _cm = PlayedCm::start(&bed, Cm::Makes).await;
    for (version, id) in
        [("app-v1", "a"), ("app-v1", "b"), ("app-v2", "c"), ("more-v1", "d"), ("foreign-v1", "x")]
    {
        register(&bed, version, id).await;
    }
    let rest = bed.rest(ACME);
    for (query, total, expected) in [
        ("", 4, &["a", "b", "c", "d"][..]),
        ("?limit=2&offset=1", 4, &["b", "c"]),
        ("?offset=9", 4, &[]),
        ("?applicationName=app", 3, &["a", "b", "c"]),
        ("?applicationVersionName=app-v1", 2, &["a", "b"]),
        ("?applicationName=more&applicationVersionName=app-v1", 0, &[]),
        ("?endpointId=d,a&endpointId=x", 2, &["a", "d"]),
        ("?applicationName=foreign", 0, &[]),
    ] {
        let list = rest.get(&format!("{ENDPOINTS}{query}")).await.expect(200);
        assert_eq!((&list["totalElements"], ids(&list).as_slice()), (&json!(total), expected), "{query}");
    }
    assert_eq!(ids(&bed.rest(OTHER).get(ENDPOINTS).await.expect(200)), ["x"]);
    for query in ["?limit=0", "?limit=1001", "?offset=-1", "?applicationName=A", "?endpointId=a/b"] {
        rest.get(&format!("{ENDPOINTS}{query}")).await.refused(400);
    }
    bed.stop().await;
}

#[tokio::test]
async fn metadata_come_when_asked_for() {
    let (bed, _tekton) = start(&[]).await;
    let _cm = PlayedCm::start(&bed, Cm::Makes).await;
    register(&bed, "app-v1", "a").await;
    let rest = bed.rest(ACME);
    let plain = rest.get(&format!("{ENDPOINTS}/a")).await.expect(200);
    assert_eq!((plain.get("metadata"), plain.get("token"), &plain["endpointId"]), (None, None, &json!("a")));
    let full = rest.get(&format!("{ENDPOINTS}/a?include=metadata")).await.expect(200);
    assert_eq!(full["metadata"], json!({"id": "a"}));
    assert!(full["metadataUpdatedDate"].is_string());
    let list = rest.get(&format!("{ENDPOINTS}?include=metadata")).await.expect(200);
    assert_eq!(list["content"][0], full);
    assert!(bed.rest(OTHER).get(&format!("{ENDPOINTS}/a")).await.refused(404).contains("endpoint a"));
    rest.get(&format!("{ENDPOINTS}/b")).await.refused(404);
    bed.stop().await;
}

#[tokio::test]
async fn services_are_told_where_an_endpoint_belongs() {
    let (bed, _tekton) = start(&[]).await;
    let _cm = PlayedCm::start(&bed, Cm::Makes).await;
    register(&bed, "app-v1", "a").await;
    let subject = GET_REQUEST.service(&InstanceName::parse("epr").unwrap());
    let ask = async |tenant: &str, endpoint_id: &str| {
        let request = EndpointGetRequest {
            correlation_id: "c".to_owned(),
            timestamp: runtime::now_ms(),
            timeout: 0,
            tenant_id: tenant.to_owned(),
            endpoint_id: endpoint_id.to_owned(),
        };
        let response: EndpointGetResponse = bed.ask(subject.clone(), &request).await;
        (response.status_code, response.app_name, response.app_version_name)
    };
    assert_eq!(ask("acme", "a").await, (200, Some("app".to_owned()), Some("app-v1".to_owned())));
    assert_eq!(ask("other", "a").await, (404, None, None));
    assert_eq!(ask("acme", "b").await, (404, None, None));
    assert_eq!(ask("acme", "a/b").await, (400, None, None));
    bed.stop().await;
}
