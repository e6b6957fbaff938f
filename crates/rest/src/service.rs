//! What every REST router of the platform has.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request};
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use opentelemetry::global;
use opentelemetry::propagation::Extractor;
use tower_http::catch_panic::CatchPanicLayer;
use tracing::Instrument as _;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use crate::caller::Rules;
use crate::edge::{IsComplete, Policy};
use crate::{Error, Rule, caller, correlation, document};

/// Paths of Kaa's that do not begin with the name of the service that has them.
const KAA_PREFIXES: [(&str, &str); 2] = [("tm", "/api/v2/"), ("tm", "/auth/realms/")];

/// Makes the router of a service out of its routes, whose paths begin with `/<name>/api/v1/`, and the rule of each.
///
/// Who calls needs what the rule of the route says (see [`crate::Rule`]); the OpenAPI document of the service, at
/// `/<name>/api/v1/openapi.json`, is open to all. Limits come from [`crate::Config`].
///
/// # Panics
/// When a route has a path outside of the service's own or no rule, or a rule has no route: mistakes in the code that the
/// first start shows.
pub fn service(name: &'static str, rules: &'static [Rule], routes: OpenApiRouter) -> Router {
    let prefix = format!("/{name}/api/v1/");
    let (routes, document) = routes.split_for_parts();
    check_rules(name, &prefix, rules, &document);
    let document = Bytes::from(document::describe(document, name, rules));
    let open = get(async move || ([(header::CONTENT_TYPE, "application/json")], document.clone()));
    let rules = Arc::new(Rules::new(rules));
    let permissions = rules.clone();
    let router = routes
        .layer(from_fn(move |request: Request, next: Next| {
            caller::require_permission(permissions.clone(), request, next)
        }))
        .route(&format!("{prefix}openapi.json"), open)
        .method_not_allowed_fallback(method_not_allowed);
    guarded(name, rules, router)
}

fn check_rules(name: &str, prefix: &str, rules: &[Rule], document: &OpenApi) {
    let routes = document::operations(document);
    for (method, path) in &routes {
        let kaas = KAA_PREFIXES.iter().any(|(service, prefix)| *service == name && path.starts_with(prefix));
        assert!(
            kaas || path.starts_with(prefix),
            "the path {path} of the service {name} must begin with {prefix}"
        );
        let found = rules.iter().filter(|rule| rule.method == *method && rule.path == path).count();
        assert!(found == 1, "{method} {path} of the service {name} needs one rule and has {found}");
    }
    for rule in rules {
        let known = routes.iter().any(|(method, path)| rule.method == *method && rule.path == path);
        assert!(known, "the rule of {} {} of the service {name} has no route", rule.method, rule.path);
    }
}

/// The router for requests that no service takes.
pub(crate) fn unknown_routes() -> Router {
    guarded("edge", Arc::new(Rules::new(&[])), Router::new().fallback(not_found))
}

/// Puts the common layers around a router; the last is the outermost.
fn guarded(name: &'static str, rules: Arc<Rules>, router: Router) -> Router {
    router
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn(move |request: Request, next: Next| admit(rules.clone(), request, next)))
        .layer(from_fn(move |request: Request, next: Next| observe(name, request, next)))
}

/// Gives the request its correlation id, its span, its log line and its place in the metrics.
async fn observe(name: &'static str, mut request: Request, next: Next) -> Response {
    let policy = match Policy::of(&request) {
        Ok(policy) => policy,
        Err(error) => return error.into_response(),
    };
    let correlation_id = correlation::of(request.headers());
    let method = request.method().clone();
    let route = match request.extensions().get::<MatchedPath>() {
        Some(path) => path.as_str().to_owned(),
        None => "unknown".to_owned(),
    };
    let span = tracing::info_span!("request", service = name, %correlation_id, %method, route);
    let parent =
        global::get_text_map_propagator(|propagator| propagator.extract(&Headers(request.headers())));
    let _ = span.set_parent(parent);
    request.extensions_mut().insert(correlation_id.clone());

    let begin = Instant::now();
    let handling = correlation::scope(correlation_id.clone(), next.run(request));
    let mut response = handling.instrument(span.clone()).await;
    let took = begin.elapsed();

    let status = response.status();
    let ms = took.as_secs_f64() * 1e3;
    span.in_scope(|| tracing::info!(status = status.as_u16(), ms, "answered"));
    policy.metrics.answered(name, &method, route, status, took);
    if let Ok(value) = HeaderValue::from_str(correlation_id.as_str()) {
        response.headers_mut().insert(correlation::HEADER, value);
    }
    response
}

/// Holds a request to the limits on number, length and time.
async fn admit(rules: Arc<Rules>, mut request: Request, next: Next) -> Response {
    let policy = match Policy::of(&request) {
        Ok(policy) => policy,
        Err(error) => return error.into_response(),
    };
    let path = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let own_limit = rules.of(path, request.method()).and_then(|rule| rule.time_limit);
    let (places, key) = match own_limit {
        Some(_) => (&policy.long_requests, "http.long_requests_max"),
        None => (&policy.requests, "http.concurrent_requests_max"),
    };
    let Ok(_permit) = places.try_acquire() else {
        return Error::unavailable(format!("too many REST requests at once ({key}): try again"))
            .into_response();
    };
    DefaultBodyLimit::max(policy.body_bytes_max).apply(&mut request);
    match tokio::time::timeout(own_limit.unwrap_or(policy.request_timeout), next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let limit = match own_limit {
                Some(limit) => format!("{} s (x-time-limit-s of this route)", limit.as_secs()),
                None => format!("{} ms (http.request_timeout_ms)", policy.request_timeout.as_millis()),
            };
            Error::timed_out(format!("the request took longer than {limit}")).into_response()
        }
    }
}

fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&'static str>().copied()).unwrap_or("unknown");
    Error::internal(anyhow::anyhow!("a handler panicked: {text}")).into_response()
}

async fn not_found(uri: Uri, request: Request) -> Error {
    if request.extensions().get() != Some(&IsComplete(true)) {
        return Error::unavailable("this process is starting: try again in a moment");
    }
    // A device's path holds its token, which belongs in no answer that may be logged.
    let path = if uri.path().starts_with("/kp1") { "this path" } else { uri.path() };
    Error::not_found(format!("there is nothing at {path}: check the path"))
}

async fn method_not_allowed(method: Method) -> Error {
    let message = format!("{method} is not possible here: see the header Allow for what is");
    Error::new(StatusCode::METHOD_NOT_ALLOWED, message)
}

/// Headers as the trace context reads them.
struct Headers<'h>(&'h axum::http::HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(axum::http::HeaderName::as_str).collect()
    }
}
