//! `/health`, `/ready` and `/metrics` of a process.

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Map, Value, json};

use crate::Context;

#[derive(Clone)]
struct Probe {
    services: Arc<Vec<Context>>,
    registry: Option<prometheus::Registry>,
}

/// What every process serves beside its services.
pub(crate) fn router(services: Arc<Vec<Context>>, registry: Option<prometheus::Registry>) -> Router {
    Router::new()
        .route("/health", get(async || Json(json!({ "status": "up" }))))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .with_state(Probe { services, registry })
}

/// 200 when every service of the process serves, else 503; the body says which does not, and why.
async fn ready(State(probe): State<Probe>) -> Response {
    let states: Vec<_> = probe.services.iter().map(|service| (service.name(), service.is_ready())).collect();
    let ready = states.iter().all(|(_, state)| state.is_ok());
    let states: Map<String, Value> = states
        .into_iter()
        .map(|(name, state)| (name.to_owned(), state.err().unwrap_or("ready").into()))
        .collect();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": ready, "services": states }))).into_response()
}

/// All metrics of the process in Prometheus' text format.
async fn metrics(State(probe): State<Probe>) -> Response {
    let families = probe.registry.map(|registry| registry.gather()).unwrap_or_default();
    match prometheus::TextEncoder::new().encode_to_string(&families) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the metrics cannot be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
