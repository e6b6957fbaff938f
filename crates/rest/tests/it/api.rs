//! What a caller sees.

use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData};
use serde_json::{Value, json};

use crate::site::{KEY, METRICS, failed, failure, site, site_with};

const BERTHS: &str = "/berths/api/v1/berths";

#[tokio::test]
async fn a_call_speaks_for_the_tenant_of_its_key() {
    let site = site().await;
    let expected = json!({"totalElements": 1, "content": [{"name": "harbour", "metres": 7}]});
    let query = format!("{BERTHS}?limit=7");
    let answer: Value = site.get(&query).send().await.unwrap().json().await.unwrap();
    assert_eq!(answer, expected);
    let by_header = site.stranger_get(&query).header("X-IAMCore-API-Key", KEY).send().await.unwrap();
    assert_eq!(by_header.json::<Value>().await.unwrap(), expected);
}

#[tokio::test]
async fn a_call_without_a_known_key_is_refused() {
    let site = site().await;
    let response = site.stranger_get(BERTHS).send().await.unwrap();
    assert_eq!(response.headers()["www-authenticate"], "Bearer realm=\"bandar\"");
    let (status, message) = failed(response).await;
    assert_eq!(status, 401);
    assert!(message.contains("Authorization: Bearer"), "{message}");
    assert_eq!(failure(site.stranger_get(BERTHS).bearer_auth("wrong")).await.0, 401);
    // A key of nobody opens nothing, also when none is configured.
    let closed = site_with(|config| config.auth = rest::AuthConfig::default()).await;
    assert_eq!(failure(closed.get(BERTHS)).await.0, 401);
}

#[tokio::test]
async fn what_was_made_is_returned_with_its_place() {
    let site = site().await;
    let berth = json!({"name": "north", "metres": 30});
    let response = site.post(BERTHS).json(&berth).send().await.unwrap();
    assert_eq!(response.status(), 201);
    assert_eq!(response.headers()["location"], "/berths/api/v1/berths/north");
    assert_eq!(response.json::<Value>().await.unwrap(), berth);
}

#[tokio::test]
async fn faults_of_a_request_are_told() {
    let site = site().await;
    let (status, message) = failure(site.post(BERTHS).json(&json!({"name": "north", "metres": -1}))).await;
    assert_eq!(status, 400);
    assert!(message.contains("metres"), "{message}");
    let broken = site.post(BERTHS).header("content-type", "application/json").body("{");
    assert_eq!(failure(broken).await.0, 400);
    assert_eq!(failure(site.post(BERTHS).body("{}")).await.0, 415);
    assert_eq!(failure(site.get("/berths/api/v1/fail/x")).await.0, 400);
    let (status, message) = failure(site.get(&format!("{BERTHS}?limit=0"))).await;
    assert_eq!((status, message.as_str()), (400, "limit must be an integer from 1 to 1000"));
    assert_eq!(failure(site.get(&format!("{BERTHS}?offset=1&offset=2"))).await.0, 400);
}

#[tokio::test]
async fn unknown_paths_and_methods_are_told() {
    let site = site().await;
    let (status, message) = failure(site.get("/berths/api/v1/nothing")).await;
    assert_eq!(status, 404);
    assert!(message.contains("/berths/api/v1/nothing"), "{message}");
    let response = site.post("/berths/api/v1/crash").send().await.unwrap();
    assert_eq!(response.headers()["allow"], "GET,HEAD");
    assert_eq!(failed(response).await.0, 405);
}

#[tokio::test]
async fn our_own_faults_show_an_id_and_no_reason() {
    let site = site().await;
    let response = site.get("/berths/api/v1/fail/7").send().await.unwrap();
    let id = response.headers()["x-correlation-id"].to_str().unwrap().to_owned();
    let (status, message) = failed(response).await;
    assert_eq!(status, 500);
    assert!(message.contains(&id) && !message.contains("secret"), "{message}");
    let (status, message) = failure(site.get("/berths/api/v1/crash")).await;
    assert_eq!(status, 500);
    assert!(!message.contains("bug"), "{message}");
}

#[tokio::test]
async fn a_given_correlation_id_is_kept_unless_it_is_none() {
    let site = site().await;
    let ask = async |id: &str| {
        let response = site.get(BERTHS).header("x-correlation-id", id).send().await.unwrap();
        response.headers()["x-correlation-id"].to_str().unwrap().to_owned()
    };
    assert_eq!(ask("order-66").await, "order-66");
    assert_ne!(ask("two words").await, "two words");
}

#[tokio::test]
async fn the_openapi_document_is_open_and_complete() {
    let site = site().await;
    let response = site.stranger_get("/berths/api/v1/openapi.json").send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/json");
    let document: Value = response.json().await.unwrap();
    assert_eq!(document["info"]["title"], "berths");
    let get = &document["paths"][BERTHS]["get"];
    assert_eq!(get["parameters"][1]["schema"]["maximum"], 1000);
    assert_eq!(
        get["responses"]["default"]["content"]["application/json"]["schema"]["$ref"],
        "#/components/schemas/ErrorBody"
    );
    assert!(document["components"]["schemas"]["ErrorBody"]["properties"]["message"].is_object());
    assert_eq!(document["components"]["securitySchemes"]["apiKey"]["name"], "x-iamcore-api-key");
    assert_eq!(document["security"], json!([{"apiKey": []}, {"bearer": []}]));
}

#[tokio::test]
async fn a_router_of_another_kind_has_its_own_rules() {
    let site = site().await;
    let device = axum::routing::post(async |body: String| body.to_uppercase());
    site.mounts.add(axum::Router::new().route("/kp1/{*path}", device));
    let response = site.post("/kp1/v1/dcx/token/json").body("ok").send().await.unwrap();
    assert!(!response.headers().contains_key("x-correlation-id"));
    assert_eq!(response.text().await.unwrap(), "OK");
}

#[tokio::test]
async fn requests_are_counted_by_route_and_never_by_what_stands_in_the_path() {
    let site = site().await;
    site.get("/berths/api/v1/fail/4711").send().await.unwrap();
    site.get("/nowhere/4711").send().await.unwrap();
    let (provider, exporter) = &*METRICS;
    provider.force_flush().unwrap();
    let mut series = Vec::new();
    for resource in exporter.get_finished_metrics().unwrap() {
        for metric in resource.scope_metrics().flat_map(|scope| scope.metrics()) {
            let AggregatedMetrics::F64(MetricData::Histogram(histogram)) = metric.data() else { continue };
            assert_eq!(metric.name(), "bandar_rest_request_duration_seconds");
            for point in histogram.data_points() {
                let labels: Vec<String> =
                    point.attributes().map(|label| format!("{}={}", label.key, label.value)).collect();
                series.push(labels.join(" "));
            }
        }
    }
    let found = |route: &str, status: &str| {
        series.iter().any(|labels| labels.contains(&format!("route={route}")) && labels.contains(status))
    };
    assert!(found("/berths/api/v1/fail/{number}", "status=500"), "{series:?}");
    assert!(found("unknown", "status=404"), "{series:?}");
    assert!(!series.join(" ").contains("4711"), "{series:?}");
}
