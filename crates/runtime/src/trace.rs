//! Trace context (W3C `traceparent`) in NATS headers.

use async_nats::HeaderMap;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator as _};
use opentelemetry::trace::TraceContextExt as _;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

struct Headers<'a>(&'a mut HeaderMap);

impl Injector for Headers<'_> {
    fn set(&mut self, key: &str, value: String) {
        self.0.insert(key, value);
    }
}

struct ReadHeaders<'a>(&'a HeaderMap);

impl Extractor for ReadHeaders<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(async_nats::HeaderValue::as_str)
    }

    fn keys(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _)| name.as_ref()).collect()
    }
}

/// Headers that carry the current span's context on, when it is sampled; most messages are not and carry none.
#[must_use]
pub fn headers() -> Option<HeaderMap> {
    let context = Span::current().context();
    if !context.span().span_context().is_sampled() {
        return None;
    }
    let mut headers = HeaderMap::new();
    TraceContextPropagator::new().inject_context(&context, &mut Headers(&mut headers));
    Some(headers)
}

/// Makes the span a child of the context that a message came with.
pub fn adopt(span: &Span, headers: Option<&HeaderMap>) {
    if let Some(headers) = headers {
        let parent = TraceContextPropagator::new().extract(&ReadHeaders(headers));
        adopt_context(span, parent);
    }
}

/// Makes the span a child of a `traceparent` that came with a device's message (MQTT 5 user property, HTTP header).
pub fn adopt_traceparent(span: &Span, traceparent: &str) {
    let carrier = std::collections::HashMap::from([("traceparent".to_owned(), traceparent.to_owned())]);
    adopt_context(span, TraceContextPropagator::new().extract(&carrier));
}

fn adopt_context(span: &Span, parent: opentelemetry::Context) {
    // Without an exporter there is no layer that could take the parent, and nothing is lost.
    drop(span.set_parent(parent));
}
