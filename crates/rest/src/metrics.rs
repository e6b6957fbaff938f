//! What is measured at the edge.

use std::time::Duration;

use axum::http::{Method, StatusCode};
use opentelemetry::metrics::{Counter, Histogram, UpDownCounter};
use opentelemetry::{KeyValue, global};

/// Upper bounds of the classes of the durations, in seconds.
const SECONDS: [f64; 13] = [0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// The instruments of the edge, made once from the global meter provider.
#[derive(Debug)]
pub(crate) struct Metrics {
    duration: Histogram<f64>,
    connections: UpDownCounter<i64>,
    refused: Counter<u64>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let meter = global::meter("rest");
        Self {
            duration: meter
                .f64_histogram("bandar_rest_request_duration_seconds")
                .with_description("REST requests by service, method, route and status")
                .with_boundaries(SECONDS.to_vec())
                .build(),
            connections: meter
                .i64_up_down_counter("bandar_rest_connections")
                .with_description("Open HTTP connections")
                .build(),
            refused: meter
                .u64_counter("bandar_rest_connections_refused")
                .with_description("HTTP connections refused, by the limit in [http] that was reached")
                .build(),
        }
    }

    pub(crate) fn answered(
        &self,
        service: &'static str,
        method: &Method,
        route: String,
        status: StatusCode,
        took: Duration,
    ) {
        let attributes = [
            KeyValue::new("service", service),
            KeyValue::new("method", label(method)),
            KeyValue::new("route", route),
            KeyValue::new("status", i64::from(status.as_u16())),
        ];
        self.duration.record(took.as_secs_f64(), &attributes);
    }

    pub(crate) fn connected(&self) {
        self.connections.add(1, &[]);
    }

    pub(crate) fn disconnected(&self) {
        self.connections.add(-1, &[]);
    }

    /// `limit`: `connections_max` or `connections_per_address_max`.
    pub(crate) fn refused(&self, limit: &'static str) {
        self.refused.add(1, &[KeyValue::new("limit", limit)]);
    }
}

/// A client may invent methods; a label takes only the usual ones.
fn label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}
