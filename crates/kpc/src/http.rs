//! The HTTP binding of 1/KP: `POST /kp1/...`, answered when the extension has answered.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use bytes::Bytes;
use kp1::{RequestPath, percent_decode};
use tracing::Instrument as _;

use crate::clients::Sender;
use crate::failure::{Failure, Sequel};
use crate::gateway::Gateway;
use crate::metrics::{Outcome, Transport};
use crate::relay::{self, Answer, Passage};
use crate::uplink::error_body;
use crate::upload::Upload;

/// When a client may try again that was told to wait, in s, if nothing says otherwise.
const RETRY_AFTER: u32 = 1;
/// The longest payload of a message whose sender is waited with, in bytes.
const WAITING_BYTES_MAX: usize = 4 * 1_024;
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The routes of the HTTP binding.
pub(crate) fn router(gateway: Arc<Gateway>) -> Router {
    // A path without anything behind `/kp1` is refused in the same form as any other that is wrong.
    ["/kp1", "/kp1/", "/kp1/{*path}"]
        .into_iter()
        .fold(Router::new(), |router, path| router.route(path, post(handle).fallback(refuse_method)))
        .with_state(gateway)
}

async fn handle(State(gateway): State<Arc<Gateway>>, stopping: rest::Stopping, request: Request) -> Response {
    let correlation_id = gateway.relay.correlation_ids.next();
    // At the default log level too: it gives the log lines their correlation id.
    let span = tracing::info_span!("post", %correlation_id);
    if let Some(traceparent) = request.headers().get("traceparent").and_then(|value| value.to_str().ok()) {
        runtime::trace::adopt_traceparent(&span, traceparent);
    }
    // A task of its own, because a client that goes must not take its message with it.
    let handling = tokio::spawn(
        async move { handle_in_span(&gateway, request, Passage::new(correlation_id), stopping).await }
            .instrument(span.clone()),
    );
    match handling.await {
        Ok(response) => response,
        Err(error) => {
            span.in_scope(|| tracing::error!(%error, "handling a message failed"));
            refuse(&Failure::passing(500, "the gateway failed; try again"))
        }
    }
}

/// Answers what is no POST; axum adds which methods are allowed.
async fn refuse_method(request: Request) -> Response {
    let (parts, body) = request.into_parts();
    Upload::new(&parts.headers, body).discard().await;
    let reason = format!("{} has no meaning here; send messages with POST", parts.method);
    refuse(&Failure::refused(405, reason))
}

async fn handle_in_span(
    gateway: &Arc<Gateway>,
    request: Request,
    mut passage: Passage,
    stopping: rest::Stopping,
) -> Response {
    let in_flight = gateway.enter();
    let (parts, body) = request.into_parts();
    let mut upload = Upload::new(&parts.headers, body);
    let wait_s = preferred_wait_s(&parts.headers, gateway.config.prefer_wait_max_s);
    let wait = wait_s.map(|seconds| Wait { seconds, stopping });
    let (result, outcome) = match relay(gateway, &parts, &mut upload, &mut passage, wait).await {
        Ok((answer, waited_s)) => {
            let status = relay::status(answer.data.status_code);
            let outcome = if status < 400 { Outcome::Stored } else { Outcome::Refused(status) };
            (Ok((answer, waited_s)), outcome)
        }
        Err(failure) => {
            let Failure { status, reason, passing, .. } = &failure;
            let correlation_id = &passage.correlation_id;
            tracing::debug!(%correlation_id, status, %reason, "a message was not taken");
            let outcome = if *passing { Outcome::Failed(*status) } else { Outcome::Refused(*status) };
            (Err(failure), outcome)
        }
    };
    gateway.metrics.message(Transport::Http, outcome, &passage);
    drop(in_flight);
    // Most messages are refused before their body has been read.
    upload.discard().await;
    match result {
        Ok((answer, waited_s)) => waited(respond(answer), waited_s),
        Err(failure) => refuse(&failure),
    }
}

/// A client's wish to wait for its answer (RFC 7240), for so long at most, and not when the process stops.
struct Wait {
    seconds: u32,
    stopping: rest::Stopping,
}

/// How long the client likes to wait for its answer, within our limit.
fn preferred_wait_s(headers: &HeaderMap, max: u16) -> Option<u32> {
    let values = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    extension::preferred_wait_s(values).map(|seconds| seconds.min(max.into())).filter(|seconds| *seconds > 0)
}

/// Tells the client how long its answer might have been waited for.
fn waited(mut response: Response, wait_s: Option<u32>) -> Response {
    let applied = wait_s.and_then(|seconds| HeaderValue::try_from(format!("wait={seconds}")).ok());
    if let Some(applied) = applied {
        response.headers_mut().insert("preference-applied", applied);
    }
    response
}

/// The extension's answer, and for how many seconds it might have been waited for.
async fn relay(
    gateway: &Arc<Gateway>,
    parts: &Parts,
    upload: &mut Upload,
    passage: &mut Passage,
    wait: Option<Wait>,
) -> Result<(Answer, Option<u32>), Failure> {
    if gateway.draining.is_cancelled() {
        return Err(Failure::passing(503, "the gateway is stopping; try again"));
    }
    let deadline = passage.since + gateway.config.deadline();
    let path = decode(&parts.uri)?;
    let path = RequestPath::parse_http(&path)?;
    let address = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
    let route = gateway.relay.resolve(&path, Sender::Http(address), passage, deadline).await?;
    gateway.take_rates(&route, passage.since, None).await?;
    let (payload, _taken) = upload.read(route.payload_limit, &gateway.memory, deadline).await?;
    let traffic = route.identity.as_ref().map(|identity| &identity.traffic);
    if let Some(traffic) = traffic {
        traffic.received(payload.len());
    }
    // Who waits asks for something and sends little: what he sends takes up memory all the while. Where there is no place the
    // wish is ignored, as RFC 7240 allows.
    let place = wait.and_then(|wait| {
        let identity = route.identity.as_ref().filter(|_| payload.len() <= WAITING_BYTES_MAX)?;
        Some((gateway.waits.enter(identity.endpoint.clone())?, wait))
    });
    let wait = place.as_ref().map(|(_, wait)| wait);
    let wait_s = wait.map(|wait| wait.seconds);
    let exchange = gateway.relay.exchange(&route, payload, &passage.correlation_id, deadline, wait_s);
    let answer = match wait {
        None => exchange.await,
        Some(wait) => tokio::select! {
            answer = exchange => answer,
            // Nobody must wait for those who wait for something to happen.
            () = wait.stopping.begun() => {
                Err(Failure::passing(504, "the gateway is stopping before the extension has answered; try again"))
            }
        },
    };
    if let Some(traffic) = traffic {
        let data = answer.as_ref().ok().and_then(|answer| answer.data.payload.as_ref());
        traffic.sent(data.map_or(0, Bytes::len));
    }
    answer.map(|answer| (answer, wait_s))
}

fn decode(uri: &Uri) -> Result<String, Failure> {
    Ok(percent_decode(uri.path())?.into_owned())
}

/// The extension's answer: success is exactly 200 (some clients accept nothing else), 304 passes, errors have the body
/// of 1/KP.
fn respond(answer: Answer) -> Response {
    match relay::status(answer.data.status_code) {
        304 => StatusCode::NOT_MODIFIED.into_response(),
        ..400 => {
            let payload = answer.data.payload.unwrap_or_default();
            if payload.is_empty() { StatusCode::OK.into_response() } else { json(StatusCode::OK, payload) }
        }
        status => {
            let reason =
                answer.data.reason_phrase.unwrap_or_else(|| "the extension gave no reason".to_owned());
            refuse(&Failure::refused(status, reason))
        }
    }
}

fn refuse(failure: &Failure) -> Response {
    let status = StatusCode::from_u16(failure.status).ok().filter(|status| status.as_u16() >= 400);
    let mut response = json(
        status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        error_body(failure.status, &failure.reason),
    );
    let retry_after = match (failure.sequel, failure.status) {
        (Sequel::Wait(seconds), _) => Some(seconds),
        (_, 429 | 503) => Some(RETRY_AFTER),
        _ => None,
    };
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

fn json(status: StatusCode, body: Bytes) -> Response {
    (status, [(header::CONTENT_TYPE, JSON)], body).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use ism::esp::ExtensionData;

    use super::*;

    fn answer(status_code: i32, payload: Option<&'static str>) -> Response {
        let payload = payload.map(Bytes::from);
        let data = ExtensionData { status_code, payload, ..ExtensionData::default() };
        respond(Answer { data, bytes: Bytes::new() })
    }

    #[tokio::test]
    async fn success_is_exactly_200() {
        assert_eq!(answer(204, None).status(), 200);
        let response = answer(201, Some("{}"));
        assert_eq!((response.status(), &response.headers()["content-type"]), (StatusCode::OK, &JSON));
        assert_eq!(answer(304, Some("x")).status(), 304);
    }

    #[test]
    fn a_client_may_ask_to_wait_within_the_limit() {
        let headers = |value: &'static str| {
            HeaderMap::from_iter([(
                axum::http::HeaderName::from_static("prefer"),
                HeaderValue::from_static(value),
            )])
        };
        assert_eq!(preferred_wait_s(&headers("respond-async, wait=5"), 60), Some(5));
        assert_eq!(preferred_wait_s(&headers("wait=61"), 60), Some(60));
        assert_eq!(preferred_wait_s(&headers("wait=61"), 0), None);
        assert_eq!(preferred_wait_s(&HeaderMap::new(), 60), None);
        let response = waited(StatusCode::OK.into_response(), Some(5));
        assert_eq!(response.headers()["preference-applied"], "wait=5");
        assert!(waited(StatusCode::OK.into_response(), None).headers().is_empty());
    }

    #[tokio::test]
    async fn an_error_tells_status_and_reason() {
        let response = answer(429, None);
        assert_eq!(
            (response.status().as_u16(), &response.headers()["retry-after"]),
            (429, &HeaderValue::from(1))
        );
        let told = refuse(&Failure::refused(429, "").with(Sequel::Wait(30)));
        assert_eq!(told.headers()["retry-after"], "30");
        let body = to_bytes(response.into_body(), 1_000).await.unwrap();
        assert_eq!(body, r#"{"statusCode":429,"reasonPhrase":"the extension gave no reason"}"#);
    }
}
