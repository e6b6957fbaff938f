//! Lists of endpoints, and where an endpoint belongs.

use ids::InstanceName;
use ism::endpoints::{EndpointGetRequest, EndpointGetResponse, GET_REQUEST};
use serde_json::json;
use testbed::{ACME, OTHER};

use crate::{Cm, ENDPOINTS, PlayedCm, execute, ids, register, start};

#[tokio::test]
async fn lists_are_filtered_paged_and_the_tenants_own() {
    let (bed, _tekton) = start(&[]).await;
    let _cm = PlayedCm::start(&bed, Cm::Makes).await;
    for (version, id) in
        [("app-v1", "a"), ("app-v1", "b"), ("app-v2", "c"), ("more-v1", "d"), ("foreign-v1", "x")]
    {
        register(&bed, version, id, json!({"id": id})).await;
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
    for query in [
        "?limit=0",
        "?limit=1001",
        "?offset=-1",
        "?offset=10001",
        "?applicationName=A",
        "?endpointId=a/b",
        "?sort=name",
        "?after=x",
        "?metadataFilter=x",
        "?regex=true&multiFilter=(",
    ] {
        rest.get(&format!("{ENDPOINTS}{query}")).await.refused(400);
    }
    bed.stop().await;
}

#[tokio::test]
async fn metadata_come_when_asked_for() {
    let (bed, _tekton) = start(&[]).await;
    let _cm = PlayedCm::start(&bed, Cm::Makes).await;
    register(&bed, "app-v1", "a", json!({"id": "a"})).await;
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
    register(&bed, "app-v1", "a", json!({"id": "a"})).await;
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

#[tokio::test]
async fn lists_are_searched_by_metadata() {
    let (bed, _tekton) = start(&[]).await;
    let _cm = PlayedCm::start(&bed, Cm::Makes).await;
    for (id, metadata) in [
        ("a", json!({"city": "Kyiv", "floor": 3, "note": "100%_sure"})),
        ("b", json!({"city": "Lviv", "floor": "3"})),
        ("c", json!({"city": null, "floor": 10, "tags": [1, 2]})),
        ("d", json!({})),
    ] {
        register(&bed, "app-v1", id, metadata).await;
    }
    register(&bed, "foreign-v1", "x", json!({"city": "Kyiv"})).await;
    let rest = bed.rest(ACME);
    for (query, expected) in [
        ("?metadataFilter=city:Kyiv", &["a"][..]),
        ("?metadataFilter=floor:3", &["a", "b"]),
        ("?metadataFilter=floor:3&metadataFilter=city:Lviv", &["b"]),
        ("?metadataFilter=city:null", &["c"]),
        ("?metadataFilter=city:iv", &[]),
        ("?regex=true&metadataFilter=city:iv", &["a", "b"]),
        ("?regex=true&metadataFilter=city:%5E%5BKL%5D.*v%24&metadataFilter=floor:%5Cd", &["a", "b"]),
        ("?multiFilter=KYI", &["a"]),
        ("?multiFilter=%25_", &["a"]),
        ("?multiFilter=d", &["d"]),
        ("?regex=true&multiFilter=%5EKy", &["a"]),
        ("?sort=createdDate,desc&limit=2", &["d", "c"]),
    ] {
        let list = rest.get(&format!("{ENDPOINTS}{query}")).await.expect(200);
        assert_eq!(ids(&list), expected, "{query}");
    }
    let search = format!("{ENDPOINTS}/search");
    let condition = |key: &str, operator: &str, value: serde_json::Value| json!({"key": key, "operator": operator, "value": value});
    for (conditions, expected) in [
        (json!([]), &["a", "b", "c", "d"][..]),
        (json!([condition("floor", "eq", json!(3))]), &["a"]),
        (json!([condition("floor", "ne", json!(3))]), &["b", "c", "d"]),
        (json!([condition("floor", "gt", json!(2.5))]), &["a", "c"]),
        (json!([condition("floor", "gte", json!(3)), condition("floor", "lt", json!(10))]), &["a"]),
        (json!([condition("floor", "lte", json!("3"))]), &["b"]),
        (json!([condition("city", "gt", json!("Kz"))]), &["b"]),
        (json!([condition("city", "exists", json!(true))]), &["a", "b", "c"]),
        (json!([condition("city", "exists", json!(false))]), &["d"]),
        (json!([condition("city", "regex", json!("^K"))]), &["a"]),
        (json!([condition("tags", "eq", json!([1, 2]))]), &["c"]),
        (json!([condition("tags", "eq", json!([1]))]), &[]),
        (json!([condition("city", "eq", json!(null))]), &["c"]),
    ] {
        let list = rest.post(&search, &json!({"metadata": conditions})).await.expect(200);
        assert_eq!(ids(&list), expected, "{conditions}");
        assert_eq!(list["totalElements"], expected.len());
    }
    let list = rest.post(&search, &json!({"endpointIds": ["d", "a", "x"], "include": ["metadata"]})).await;
    let list = list.expect(200);
    assert_eq!((ids(&list), &list["content"][0]["metadata"]["floor"]), (vec!["a", "d"], &json!(3)));
    assert_eq!(rest.post(&search, &json!({"endpointIds": []})).await.expect(200)["totalElements"], 0);
    rest.post(&search, &json!({"endpoints": []})).await.refused(400);
    rest.post(&search, &json!({"tenantId": "other"})).await.refused(403);
    rest.get(&format!("{ENDPOINTS}?tenantId=other")).await.refused(403);
    bed.stop().await;
}

#[tokio::test]
async fn a_page_of_large_metadata_is_refused_and_a_smaller_one_is_not() {
    let limits = [("epr.metadata_bytes_max", "200"), ("epr.list_metadata_bytes_max", "400")];
    let (bed, _tekton) = start(&limits).await;
    let _cm = PlayedCm::start(&bed, Cm::Makes).await;
    for id in ["a", "b", "c"] {
        register(&bed, "app-v1", id, json!({"note": "x".repeat(180)})).await;
    }
    let rest = bed.rest(ACME);
    assert_eq!(ids(&rest.get(ENDPOINTS).await.expect(200)), ["a", "b", "c"]);
    let message = rest.get(&format!("{ENDPOINTS}?include=metadata")).await.refused(400);
    assert!(message.contains("epr.list_metadata_bytes_max") && message.contains("limit"), "{message}");
    let list = rest.get(&format!("{ENDPOINTS}?include=metadata&limit=2")).await.expect(200);
    assert_eq!(ids(&list), ["a", "b"]);
    // What is short for the caller may be long in the database.
    let numbers = json!({"n": vec![1e300; 20]});
    let message = rest.put(&format!("{ENDPOINTS}/a/metadata"), &numbers).await.refused(400);
    assert!(message.contains("epr.metadata_bytes_max"), "{message}");
    bed.stop().await;
}

#[tokio::test]
async fn a_list_is_walked_through_by_its_cursor_in_both_directions() {
    let (bed, _tekton) = start(&[("epr.list_offset_max", "1000")]).await;
    // Several of the same moment: the cursor is the moment and the id.
    execute(
        &bed,
        "INSERT INTO epr.endpoints (endpoint_id, tenant_id, application_name, app_version_name,
             app_version_registered_at, metadata, created_at, registered_at, registration_id, reserved_until)
         SELECT 'e.' || to_char(n, 'FM000'), 'acme', 'app', 'app-v1', now(), '{}',
             now() - n / 10 * interval '1 second', now(), gen_random_uuid(), now()
         FROM generate_series(1, 95) AS n",
    )
    .await;
    let rest = bed.rest(ACME);
    for sort in ["createdDate,asc", "createdDate,desc"] {
        let all = rest.get(&format!("{ENDPOINTS}?limit=1000&sort={sort}")).await.expect(200);
        assert_eq!((ids(&all).len(), all.get("next")), (95, None));
        let (mut walked, mut after) = (Vec::new(), String::new());
        loop {
            let page = rest.get(&format!("{ENDPOINTS}?limit=10&sort={sort}{after}")).await.expect(200);
            assert_eq!(page["totalElements"], 95);
            walked.extend(ids(&page).into_iter().map(ToOwned::to_owned));
            let Some(next) = page["next"].as_str() else { break };
            after = format!("&after={next}");
        }
        assert_eq!(walked, ids(&all));
    }
    let message = rest.get(&format!("{ENDPOINTS}?offset=1001")).await.refused(400);
    assert!(message.contains("epr.list_offset_max") && message.contains("after"), "{message}");
    bed.stop().await;
}
