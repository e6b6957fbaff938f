//! Arguments and results of handlers.

use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, FromRequestParts, OptionalFromRequest, Request};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Error;
use crate::edge::Policy;

/// A JSON body, as an argument or a result. As an argument it must come with `Content-Type: application/json`;
/// `Option<Json<T>>` allows a request without a content type and body.
#[derive(Debug, Clone, Copy, Default)]
pub struct Json<T>(pub T);

/// The parameters of the path.
#[derive(Debug, Clone, Copy, Default)]
pub struct Path<T>(pub T);

/// The parameters behind the question mark. Each may be given once; unknown ones are ignored unless `T` denies them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Query<T>(pub T);

/// The result of a `POST` that made something: 201 with `Location` and the made object as JSON.
#[derive(Debug, Clone)]
pub struct Created<T> {
    /// The path of the new object, percent-encoded.
    pub location: String,
    /// The object.
    pub body: T,
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Error;

    async fn from_request(request: Request, state: &S) -> Result<Self, Error> {
        let limit = body_bytes_max(&request);
        let body = <axum::Json<T> as FromRequest<S>>::from_request(request, state).await;
        body.map(|axum::Json(value)| Self(value)).map_err(|rejection| refusal(&rejection, limit))
    }
}

impl<S: Send + Sync, T: DeserializeOwned> OptionalFromRequest<S> for Json<T> {
    type Rejection = Error;

    async fn from_request(request: Request, state: &S) -> Result<Option<Self>, Error> {
        let limit = body_bytes_max(&request);
        let body = <axum::Json<T> as OptionalFromRequest<S>>::from_request(request, state).await;
        body.map(|body| body.map(|axum::Json(value)| Self(value)))
            .map_err(|rejection| refusal(&rejection, limit))
    }
}

fn body_bytes_max(request: &Request) -> usize {
    Policy::of(request).map_or(0, |policy| policy.body_bytes_max)
}

fn refusal(rejection: &JsonRejection, limit: usize) -> Error {
    match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Error::too_large(format!(
            "the body is longer than {limit} bytes (http.body_bytes_max): send less"
        )),
        // A body of another shape is as wrong as one that is not JSON.
        StatusCode::UNPROCESSABLE_ENTITY => Error::bad_request(rejection.body_text()),
        status => Error::new(status, rejection.body_text()),
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let path = axum::extract::Path::from_request_parts(parts, state).await;
        path.map(|axum::extract::Path(value)| Self(value))
            .map_err(|rejection| Error::new(rejection.status(), rejection.body_text()))
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let query = axum::extract::Query::from_request_parts(parts, state).await;
        query
            .map(|axum::extract::Query(value)| Self(value))
            .map_err(|rejection| Error::new(rejection.status(), rejection.body_text()))
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

impl<T: Serialize> IntoResponse for Created<T> {
    fn into_response(self) -> Response {
        match HeaderValue::try_from(self.location) {
            Ok(location) => {
                (StatusCode::CREATED, [(header::LOCATION, location)], Json(self.body)).into_response()
            }
            Err(error) => Error::internal(error).into_response(),
        }
    }
}
