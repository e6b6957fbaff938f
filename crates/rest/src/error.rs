//! What a REST call fails with.

use std::borrow::Cow;
use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::correlation;

/// A client that is told to come back without a time comes back after this many seconds.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A failed REST call: a status and a message for the caller, and for the log what caused it. It answers `{"message": "..."}`.
#[derive(Debug)]
pub struct Error {
    status: StatusCode,
    message: Cow<'static, str>,
    retry_after: Option<Duration>,
    /// Boxed inside; never shown to the caller.
    cause: Option<anyhow::Error>,
}

/// The body of every failed REST call.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    /// The cause and the fix, in words.
    pub message: String,
}

impl Error {
    /// An error with any status. The message names the cause and the fix.
    pub fn new(status: StatusCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status, message: message.into(), retry_after: None, cause: None }
    }

    /// 400: the request is wrong.
    pub fn bad_request(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 401: the caller did not say who it is.
    pub fn unauthorized(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, message)
    }

    /// 403: the caller may not do this.
    pub fn forbidden(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::FORBIDDEN, message)
    }

    /// 404: there is no such thing, or it belongs to another tenant.
    pub fn not_found(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// 409: it exists already, or changed meanwhile.
    pub fn conflict(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::CONFLICT, message)
    }

    /// 412: the caller has another state in mind than there is.
    pub fn precondition_failed(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::PRECONDITION_FAILED, message)
    }

    /// 413: the request is longer than a limit.
    pub fn too_large(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    }

    /// 429: the caller is over a limit; the message names it. The response has `Retry-After`.
    pub fn too_many(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, message).retry_after(RETRY_AFTER)
    }

    /// 503: something that the call needs does not answer now. The response has `Retry-After`.
    pub fn unavailable(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message).retry_after(RETRY_AFTER)
    }

    /// 504: it took longer than a limit; the message names it.
    pub fn timed_out(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, message)
    }

    /// 500: our fault. The cause goes to the log with all that lies behind it; the caller gets the correlation id to ask about.
    pub fn internal(cause: impl Into<anyhow::Error>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "").because(cause)
    }

    /// Tells the log, but not the caller, what caused it.
    #[must_use]
    pub fn because(mut self, cause: impl Into<anyhow::Error>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// When to try again; rounded up to whole seconds.
    #[must_use]
    pub fn retry_after(mut self, pause: Duration) -> Self {
        self.retry_after = Some(pause);
        self
    }

    /// The status of the response.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The message for the caller; empty for [`Error::internal`].
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// A handler of this crate runs outside of [`crate::service`] or [`crate::Edge`].
    pub(crate) fn not_mounted() -> Self {
        Self::internal(anyhow::anyhow!(
            "the router must be made by rest::service and mounted on a rest::Edge"
        ))
    }
}

/// A database that is away, busy or too slow is told as such; everything else is our fault.
impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error::{Io, PoolClosed, PoolTimedOut, WorkerCrashed};
        let code = error.as_database_error().and_then(|error| error.code()).unwrap_or_default();
        let away = matches!(error, Io(_) | PoolClosed | PoolTimedOut | WorkerCrashed);
        // Classes and codes of PostgreSQL: insufficient resources, shutdown, serialization failure, deadlock.
        let busy =
            code.starts_with("53") || matches!(&*code, "57P01" | "57P02" | "57P03" | "40001" | "40P01");
        // query_canceled, by the statement timeout.
        let slow = code == "57014";
        // character_not_in_repertoire, untranslatable_character: a NUL in a text of the caller's.
        if matches!(&*code, "22021" | "22P05") {
            return Self::bad_request("a text of the request holds a character that cannot be stored (NUL)");
        }
        if away || busy {
            Self::unavailable("the database cannot answer now: try again").because(error)
        } else if slow {
            Self::timed_out("the database needed longer than postgres.statement_timeout_ms: ask for less")
                .because(error)
        } else {
            Self::internal(error)
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let mut message = self.message.into_owned();
        if self.status == StatusCode::INTERNAL_SERVER_ERROR && message.is_empty() {
            message = internal_message();
        }
        if let Some(cause) = &self.cause {
            let status = self.status.as_u16();
            if self.status == StatusCode::INTERNAL_SERVER_ERROR {
                tracing::error!(status, cause = format!("{cause:#}"), "the request failed");
            } else {
                tracing::warn!(status, cause = format!("{cause:#}"), "the request was not served");
            }
        }
        let mut response = (self.status, Json(ErrorBody { message })).into_response();
        let headers = response.headers_mut();
        if let Some(pause) = self.retry_after {
            let seconds = pause.as_secs() + u64::from(pause.subsec_nanos() > 0);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"bandar\""));
        }
        response
    }
}

fn internal_message() -> String {
    match correlation::current() {
        Some(id) => format!("internal error: look for the correlation id {id} in the log of the service"),
        None => "internal error: look into the log of the service".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_the_database_decides_the_status() {
        assert_eq!(Error::from(sqlx::Error::PoolTimedOut).status(), 503);
        assert_eq!(Error::from(sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into())).status(), 503);
        assert_eq!(Error::from(sqlx::Error::RowNotFound).status(), 500);
    }

    #[test]
    fn headers_say_how_to_go_on() {
        let response = Error::too_many("x").retry_after(Duration::from_millis(1_200)).into_response();
        assert_eq!(response.headers()[header::RETRY_AFTER], "2");
        let response = Error::unauthorized("x").into_response();
        assert_eq!(response.headers()[header::WWW_AUTHENTICATE], "Bearer realm=\"bandar\"");
    }
}
