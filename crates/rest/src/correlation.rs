//! The id that follows a request through all services.

use axum::http::HeaderMap;
use axum::http::header::HeaderName;
use ids::CorrelationId;
use uuid::Uuid;

/// A client may give the id; the response carries it.
pub(crate) const HEADER: HeaderName = HeaderName::from_static("x-correlation-id");

tokio::task_local! {
    /// The id of the request in whose handling this code runs.
    static CURRENT: CorrelationId;
}

/// The id that the client gave, if it is one, else a new one.
pub(crate) fn of(headers: &HeaderMap) -> CorrelationId {
    let given = headers.get(HEADER).and_then(|value| CorrelationId::parse(value.to_str().ok()?).ok());
    given.unwrap_or_else(new)
}

#[expect(clippy::expect_used, reason = "32 hexadecimal digits are always a correlation id")]
fn new() -> CorrelationId {
    let text = Uuid::now_v7().simple().to_string();
    CorrelationId::parse(&text).expect("32 hexadecimal digits")
}

/// Runs the handling of a request.
pub(crate) async fn scope<T>(id: CorrelationId, handling: impl Future<Output = T>) -> T {
    CURRENT.scope(id, handling).await
}

/// The id of the request that is being handled, for the text of an error.
pub(crate) fn current() -> Option<CorrelationId> {
    CURRENT.try_with(Clone::clone).ok()
}
