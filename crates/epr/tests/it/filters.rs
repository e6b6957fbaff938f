//! Filters over REST and NATS.

use std::collections::BTreeMap;

use ids::InstanceName;
use ism::efe::{
    EndpointFilterActivatedEvent, EndpointFilterDeletedEvent, EndpointFilterPendingEvent,
    EndpointMatchedFilterEvent, EndpointUnmatchedFilterEvent,
};
use ism::efmp::{
    EP_FILTERS_REQUEST, EP_LIST_BY_FILTER_REQUEST, EndpointFiltersRequest, EndpointFiltersResponse,
    EndpointListByFilterRequest, EndpointListByFilterResponse,
};
use ism::{Record as _, tle};
use reqwest::Method;
use serde_json::{Value, json};
use testbed::{ACME, Events, OTHER, Rest};

use crate::{Cm, ENDPOINTS, PlayedCm, execute, ids, number, register, start};

const FILTERS: &str = "/epr/api/v1/applications/app/filters";

/// The query of Kaa's documentation.
fn city(name: &str) -> Value {
    json!({"metadata": {"$elemMatch": {"key": "city", "value": name}}})
}

fn events(event_type: &str) -> String {
    format!("kaa.v1.events.*.endpoint-filter.*.{event_type}")
}

fn path(filter: &Value) -> String {
    format!("{FILTERS}/{}", filter["id"].as_str().unwrap())
}

/// Waits until a filter is active, and reads it.
async fn active(rest: &Rest, path: &str) -> Value {
    testkit::eventually("the filter to be active", testbed::PATIENCE, async || {
        let filter = rest.get(path).await.expect(200);
        (filter["status"] == "ACTIVE").then_some(filter)
    })
    .await
}

async fn create(rest: &Rest, name: &str, query: &Value) -> Value {
    let made = rest.post(FILTERS, &json!({"name": name, "mongoQuery": query})).await.expect(201);
    active(rest, &path(&made)).await
}

async fn set(rest: &Rest, endpoint_id: &str, key: &str, value: Value) {
    let answer = rest.put(&format!("{ENDPOINTS}/{endpoint_id}/metadata/{key}"), &value).await;
    assert!((200..300).contains(&answer.status), "{} {}", answer.status, answer.body);
}

#[tokio::test]
async fn a_filter_is_created_changed_listed_and_deleted() {
    let (bed, _tekton) = start(&[]).await;
    let _cm = PlayedCm::start(&bed, Cm::Makes).await;
    register(&bed, "app-v1", "kyiv", json!({"city": "Kyiv"})).await;
    register(&bed, "app-v2", "lviv", json!({"city": "Lviv"})).await;
    register(&bed, "more-v1", "elsewhere", json!({"city": "Kyiv"})).await;
    let mut pending = Events::listen(&bed.client, &events("pending")).await;
    let mut activated = Events::listen(&bed.client, &events("activated")).await;
    let mut deleted = Events::listen(&bed.client, &events("deleted")).await;
    let rest = bed.rest(ACME);

    let body = json!({"name": "In Kyiv", "description": "d", "mongoQuery": city("Kyiv")});
    let made = rest.post(FILTERS, &body).await;
    let (location, first) = (made.location.clone().unwrap(), made.etag.clone().unwrap());
    let filter = made.expect(201);
    assert_eq!((&filter["status"], &filter["mongoQuery"]), (&json!("PENDING"), &city("Kyiv")));
    assert_eq!(location, path(&filter));
    let filter_id = filter["id"].as_str().unwrap();
    let (subject, event) = pending.next::<EndpointFilterPendingEvent>().await;
    assert_eq!(subject, format!("kaa.v1.events.epr.endpoint-filter.{filter_id}.pending"));
    assert_eq!((event.filter_id.as_str(), event.application_name.as_str()), (filter_id, "app"));
    assert_eq!(event.filter_name.as_deref(), Some("In Kyiv"));
    let (subject, event) = activated.next::<EndpointFilterActivatedEvent>().await;
    assert_eq!(subject, format!("kaa.v1.events.epr.endpoint-filter.{filter_id}.activated"));
    assert_eq!(event.filter_id, filter_id);
    let read = rest.get(&location).await;
    assert_eq!(read.etag.clone().unwrap(), first);
    let read = read.expect(200);
    assert_eq!((&read["matchedEndpointsCount"], &read["description"]), (&json!(1), &json!("d")));
    assert!(read["createdDate"].is_string() && read["updatedDate"].is_string());

    // Another query, which is sent as a text and answered as such.
    let text = json!(city("Lviv").to_string());
    let change = json!({"mongoQuery": text, "description": null});
    let wrong = [("if-match", "\"99\"")];
    rest.call_with(Method::PATCH, &location, &wrong, Some(&change)).await.refused(412);
    let right = [("if-match", first.as_str())];
    let changed = rest.call_with(Method::PATCH, &location, &right, Some(&change)).await;
    assert_ne!(changed.etag.clone().unwrap(), first);
    let changed = changed.expect(200);
    assert_eq!(
        (&changed["status"], &changed["mongoQuery"], &changed["name"], &changed["description"]),
        (&json!("PENDING"), &text, &json!("In Kyiv"), &Value::Null)
    );
    pending.next::<EndpointFilterPendingEvent>().await;
    activated.next::<EndpointFilterActivatedEvent>().await;
    let found = rest.get(&format!("{ENDPOINTS}?filterId={filter_id}")).await.expect(200);
    assert_eq!(ids(&found), ["lviv"]);

    let more = create(&rest, "more", &json!({})).await;
    assert_eq!(more["matchedEndpointsCount"], 2);
    let list = rest.get(FILTERS).await.expect(200);
    let names: Vec<&Value> =
        list["content"].as_array().unwrap().iter().map(|filter| &filter["name"]).collect();
    assert_eq!((&list["totalElements"], names), (&json!(2), vec![&json!("In Kyiv"), &json!("more")]));
    let named = rest.get(&format!("{FILTERS}?name=more")).await.expect(200);
    assert_eq!((&named["totalElements"], &named["content"][0]["id"]), (&json!(1), &more["id"]));
    let rest_of_list = rest.get(&format!("{FILTERS}?offset=1&limit=1")).await.expect(200);
    assert_eq!(rest_of_list["content"][0]["id"], more["id"]);

    rest.call_with(Method::DELETE, &location, &right, None).await.refused(412);
    assert_eq!(rest.delete(&location).await.status, 204);
    let (_, event) = deleted.next::<EndpointFilterDeletedEvent>().await;
    assert_eq!(event.filter_id, filter_id);
    rest.delete(&location).await.refused(404);
    rest.get(&location).await.refused(404);
    rest.get(&format!("{ENDPOINTS}?filterId={filter_id}")).await.refused(404);
    let only = format!("{ENDPOINTS}/lviv?include=filters");
    assert_eq!(rest.get(&only).await.expect(200)["filters"], json!([more["id"]]));
    testkit::eventually("the rows to be gone", testbed::PATIENCE, async || {
        (number(&bed, "SELECT count(*) FROM epr.endpoint_filters").await == 1).then_some(())
    })
    .await;
    bed.stop().await;
}

#[tokio::test]
async fn each_change_of_an_endpoint_is_followed_and_told() {
    let (bed, _tekton) = start(&[]).await;
    let _cm = PlayedCm::start(&bed, Cm::Makes).await;
    let rest = bed.rest(ACME);
    let kyiv = create(&rest, "in Kyiv", &city("Kyiv")).await;
    let newer = create(&rest, "newer", &json!({"application_version": "app-v2"})).await;
    let mut matched = Events::listen(&bed.client, &events("ep-matched")).await;
    let mut unmatched = Events::listen(&bed.client, &events("ep-unmatched")).await;
    let heard =
        |event: EndpointMatchedFilterEvent| (event.filter_id, event.app_version_name, event.endpoint_id);
    let id = |filter: &Value| filter["id"].as_str().unwrap().to_owned();
    let of = |filter: &Value, version: &str| (id(filter), version.to_owned(), "e".to_owned());

    register(&bed, "app-v1", "e", json!({"city": "Kyiv"})).await;
    let (subject, event) = matched.next::<EndpointMatchedFilterEvent>().await;
    assert_eq!(subject, format!("kaa.v1.events.epr.endpoint-filter.{}.ep-matched", id(&kyiv)));
    assert_eq!((event.filter_name.as_deref(), event.application_name.as_str()), (Some("in Kyiv"), "app"));
    assert_eq!(heard(event), of(&kyiv, "app-v1"));

    set(&rest, "e", "city", json!("Lviv")).await;
    let (subject, event) = unmatched.next::<EndpointUnmatchedFilterEvent>().await;
    assert_eq!(subject, format!("kaa.v1.events.epr.endpoint-filter.{}.ep-unmatched", id(&kyiv)));
    assert_eq!((event.filter_id, event.app_version_name, event.endpoint_id), of(&kyiv, "app-v1"));

    rest.put(&format!("{ENDPOINTS}/e/app-version"), &json!({"name": "app-v2"})).await.expect(200);
    let (_, event) = matched.next::<EndpointMatchedFilterEvent>().await;
    assert_eq!(heard(event), of(&newer, "app-v2"));
    set(&rest, "e", "city", json!("Kyiv")).await;
    matched.next::<EndpointMatchedFilterEvent>().await;
    for filter in [&kyiv, &newer] {
        assert_eq!(rest.get(&path(filter)).await.expect(200)["matchedEndpointsCount"], 1);
    }

    let gone = rest.delete(&format!("{ENDPOINTS}/e")).await;
    assert_eq!(gone.status, 204);
    let mut told = Vec::new();
    for _ in 0..2 {
        let (_, event) = unmatched.next::<EndpointUnmatchedFilterEvent>().await;
        told.push((event.filter_id, event.app_version_name, event.endpoint_id));
    }
    told.sort();
    let mut expected = vec![of(&kyiv, "app-v2"), of(&newer, "app-v2")];
    expected.sort();
    assert_eq!(told, expected);
    for filter in [&kyiv, &newer] {
        assert_eq!(rest.get(&path(filter)).await.expect(200)["matchedEndpointsCount"], 0);
    }
    bed.stop().await;
}

#[tokio::test]
async fn what_is_left_pending_is_taken_up_and_not_searched_by_before() {
    let (bed, _tekton) = start(&[("epr.filters.batch_endpoints", "1")]).await;
    let _cm = PlayedCm::start(&bed, Cm::Makes).await;
    for id in ["a", "b", "c"] {
        register(&bed, "app-v1", id, json!({"city": "Kyiv"})).await;
    }
    let rest = bed.rest(ACME);
    let filter = create(&rest, "f", &city("Kyiv")).await;
    let filter_id = filter["id"].as_str().unwrap();
    // What a process leaves that dies after the first of three steps.
    let mut holder = crate::connect(&bed).await;
    let mut held = sqlx::Connection::begin(&mut holder).await.unwrap();
    for statement in [
        "UPDATE epr.endpoint_filters SET status = 'PENDING'",
        "DELETE FROM epr.endpoint_filter_matches WHERE endpoint_id <> 'a'",
        "UPDATE epr.endpoint_filter_counts SET endpoints = CASE WHEN part = 16 THEN 1 ELSE 0 END",
    ] {
        sqlx::query(statement).execute(&mut *held).await.unwrap();
    }
    held.commit().await.unwrap();
    let found = active(&rest, &path(&filter)).await;
    assert_eq!(found["matchedEndpointsCount"], 3);

    execute(
        &bed,
        "UPDATE epr.endpoint_filters SET status = 'PENDING', mongo_query = '{\"$from\": \"the future\"}'",
    )
    .await;
    let message = rest.get(&format!("{ENDPOINTS}?filterId={filter_id}")).await.refused(409);
    assert!(message.contains("PENDING"), "{message}");
    assert_eq!(rest.get(&format!("{ENDPOINTS}/a?include=filters")).await.expect(200)["filters"], json!([]));
    // What this version cannot read holds up nothing else.
    create(&rest, "g", &city("Kyiv")).await;
    set(&rest, "a", "city", json!("Lviv")).await;
    bed.stop().await;
}

#[tokio::test]
async fn services_are_told_what_matches() {
    let (bed, _tekton) = start(&[("epr.filters.listed_endpoints_max", "2")]).await;
    let _cm = PlayedCm::start(&bed, Cm::Makes).await;
    register(&bed, "app-v1", "a", json!({"city": "Kyiv"})).await;
    register(&bed, "app-v2", "b", json!({"city": "Kyiv"})).await;
    register(&bed, "app-v2", "c", json!({})).await;
    let rest = bed.rest(ACME);
    let kyiv = create(&rest, "in Kyiv", &city("Kyiv")).await["id"].as_str().unwrap().to_owned();
    let all = create(&rest, "all", &json!({})).await["id"].as_str().unwrap().to_owned();
    let epr = InstanceName::parse("epr").unwrap();
    let filters_of = async |endpoint_id: &str| {
        let request = EndpointFiltersRequest {
            correlation_id: "c".to_owned(),
            timestamp: runtime::now_ms(),
            endpoint_id: endpoint_id.to_owned(),
            ..EndpointFiltersRequest::default()
        };
        let subject = EP_FILTERS_REQUEST.service(&epr);
        let mut response: EndpointFiltersResponse = bed.ask(subject, &request).await;
        assert_eq!((response.correlation_id.as_str(), response.endpoint_id.as_str()), ("c", endpoint_id));
        response.filter_ids.sort();
        (response.status_code, response.filter_ids)
    };
    let endpoints_of = async |filter_id: &str| {
        let request = EndpointListByFilterRequest {
            correlation_id: "c".to_owned(),
            timestamp: runtime::now_ms(),
            filter_id: filter_id.to_owned(),
            ..EndpointListByFilterRequest::default()
        };
        let subject = EP_LIST_BY_FILTER_REQUEST.service(&epr);
        let response: EndpointListByFilterResponse = bed.ask(subject, &request).await;
        (response.status_code, response.app_versions_to_endpoints, response.reason_phrase)
    };
    let mut both = vec![kyiv.clone(), all.clone()];
    both.sort();
    assert_eq!(filters_of("a").await, (200, both));
    assert_eq!(filters_of("c").await, (200, vec![all.clone()]));
    for unknown in ["d", "a/b"] {
        assert_eq!(filters_of(unknown).await, (404, Vec::new()), "{unknown}");
    }
    let expected = [("app-v1", "a"), ("app-v2", "b")];
    let expected: BTreeMap<String, Vec<String>> =
        expected.iter().map(|(version, id)| ((*version).to_owned(), vec![(*id).to_owned()])).collect();
    assert_eq!(endpoints_of(&kyiv).await, (200, expected, None));
    let (code, endpoints, reason) = endpoints_of(&all).await;
    assert_eq!((code, endpoints.len()), (413, 0));
    assert!(reason.unwrap().contains("epr.filters.listed_endpoints_max"));
    for unknown in ["x", "7ad263ec-3347-4c7d-af89-50c67061367a"] {
        assert_eq!(endpoints_of(unknown).await.0, 404, "{unknown}");
    }
    execute(
        &bed,
        "UPDATE epr.endpoint_filters SET status = 'PENDING', mongo_query = '{\"$from\": \"the future\"}'",
    )
    .await;
    assert_eq!(endpoints_of(&kyiv).await.0, 409);
    assert_eq!(filters_of("a").await, (200, Vec::new()));
    bed.stop().await;
}

#[tokio::test]
async fn what_is_not_right_is_refused_with_the_reason() {
    let (bed, tekton) = start(&[("epr.filters.per_application_max", "1")]).await;
    let rest = bed.rest(ACME);
    for (body, words) in [
        (json!({"name": "f", "mongoQuery": {"$where": "1"}}), "at /$where: $where is not supported"),
        (json!({"name": "f", "mongoQuery": "{"}), "mongoQuery: EOF"),
        (json!({"name": "f", "mongoQuery": 7}), "JSON object"),
        (json!({"name": "f"}), "mongoQuery"),
        (json!({"name": " ", "mongoQuery": {}}), "name must be"),
        (json!({"mongoQuery": {}}), "name"),
        (json!({"name": "f", "description": "d".repeat(1_025), "mongoQuery": {}}), "description must be"),
    ] {
        let message = rest.post(FILTERS, &body).await.refused(400);
        assert!(message.contains(words), "{body}: {message}");
    }
    let body = json!({"name": "f", "mongoQuery": {}});
    let filter = rest.post(FILTERS, &body).await.expect(201);
    let message = rest.post(FILTERS, &json!({"name": "g", "mongoQuery": {}})).await.refused(409);
    assert!(message.contains("epr.filters.per_application_max"), "{message}");
    rest.patch(&path(&filter), &json!({"mongoQuery": {"$where": 1}})).await.refused(400);
    rest.patch(&path(&filter), &json!({"name": ""})).await.refused(400);
    for application in ["foreign", "none"] {
        let filters = format!("/epr/api/v1/applications/{application}/filters");
        rest.get(&filters).await.refused(404);
        rest.post(&filters, &body).await.refused(404);
    }
    // A filter is its tenant's and its application's.
    let other = bed.rest(OTHER);
    for (rest, path) in [(&other, path(&filter)), (&rest, path(&filter).replace("/app/", "/more/"))] {
        rest.get(&path).await.refused(404);
        rest.patch(&path, &json!({"name": "g"})).await.refused(404);
        rest.delete(&path).await.refused(404);
    }
    let of_other = format!("{ENDPOINTS}?filterId={}", filter["id"].as_str().unwrap());
    other.get(&of_other).await.refused(404);
    for no_id in ["x", "7ad263ec-3347-4c7d-af89-50c67061367a"] {
        rest.get(&format!("{FILTERS}/{no_id}")).await.refused(404);
    }
    // What is stored here can be read without tekton.
    drop(tekton);
    assert_eq!(rest.get(&path(&filter)).await.expect(200)["name"], "f");
    bed.stop().await;
}

/// Writers over REST while filters are made and changed.
#[tokio::test]
async fn counts_are_exact_when_all_changes_at_once() {
    let (bed, _tekton) = start(&[("epr.filters.batch_endpoints", "3")]).await;
    let _cm = PlayedCm::start(&bed, Cm::Makes).await;
    let rest = bed.rest(ACME);
    let names: Vec<String> = (0..20).map(|number| format!("e{number}")).collect();
    for name in &names {
        register(&bed, "app-v1", name, json!({"city": "Kyiv"})).await;
    }
    let first = create(&rest, "first", &city("Lviv")).await;
    let writers = names.iter().map(|name| {
        let rest = rest.clone();
        async move {
            for round in 0..5 {
                let city = if round % 2 == 0 { "Lviv" } else { "Kyiv" };
                set(&rest, name, "city", json!(city)).await;
            }
        }
    });
    let filters = async {
        let mut made = vec![path(&first)];
        for round in 0..5 {
            let name = if round % 2 == 0 { "Kyiv" } else { "Lviv" };
            rest.patch(&path(&first), &json!({"mongoQuery": city(name)})).await.expect(200);
            let body = json!({"name": format!("late {round}"), "mongoQuery": city("Lviv")});
            made.push(path(&rest.post(FILTERS, &body).await.expect(201)));
        }
        made
    };
    let (_, made) = tokio::join!(futures::future::join_all(writers), filters);
    for (index, path) in made.iter().enumerate() {
        let filter = active(&rest, path).await;
        let expected = if index == 0 { 0 } else { 20 };
        assert_eq!(filter["matchedEndpointsCount"], expected, "{}", filter["name"]);
        let found = rest.get(&format!("{ENDPOINTS}?filterId={}", filter["id"].as_str().unwrap())).await;
        assert_eq!(found.expect(200)["totalElements"], expected);
    }
    bed.stop().await;
}

#[tokio::test]
async fn the_filters_of_an_unregistered_tenant_go() {
    let (bed, _tekton) = start(&[("epr.sweep_interval_ms", "50")]).await;
    let rest = bed.rest(ACME);
    let filter = create(&rest, "f", &json!({})).await;
    let mut deleted = Events::listen(&bed.client, &events("deleted")).await;
    let event = tle::UnregisteredEvent {
        correlation_id: "c".to_owned(),
        timestamp: runtime::now_ms(),
        timeout: 0,
        tenant_id: ACME.id.to_owned(),
        originator_replica_id: "tm-0".to_owned(),
    };
    let subject = tle::UNREGISTERED.of(&InstanceName::parse("tm").unwrap());
    bed.client.publish(subject, event.encode()).await.unwrap();
    let (_, event) = deleted.next::<EndpointFilterDeletedEvent>().await;
    assert_eq!(json!(event.filter_id), filter["id"]);
    rest.get(&path(&filter)).await.refused(404);
    bed.stop().await;
}
