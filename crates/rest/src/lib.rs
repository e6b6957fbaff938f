//! The HTTP edge that all services share.
//!
//! A process has one listener, the [`Edge`]; the services of the process mount their routers there with full paths. A router made by
//! [`service`] gets what every REST API of the platform has: authentication, limits on body, time and number of requests, errors as
//! `{"message": "..."}`, a log line and a metric per request, a correlation id, and its OpenAPI document. Handlers take their
//! arguments with the extractors of this crate ([`Caller`], [`Json`], [`Path`], [`Query`], [`Parameters`], [`Page`]), whose refusals have the same
//! form, and fail with [`Error`].
//!
//! ```
//! # use rest::{Caller, Error, Page, PageOf};
//! # use utoipa_axum::{router::OpenApiRouter, routes};
//! /// Lists the endpoints of the caller's tenant.
//! #[utoipa::path(get, path = "/epr/api/v1/endpoints", params(Page), responses((status = 200, body = PageOf<String>)))]
//! async fn list(caller: Caller, page: Page) -> Result<rest::Json<PageOf<String>>, Error> {
//!     if page.limit > 500 {
//!         return Err(Error::bad_request("limit must be 500 at most"));
//!     }
//!     Ok(rest::Json(PageOf { total_elements: 1, content: vec![caller.tenant.to_string()] }))
//! }
//!
//! let router: axum::Router = rest::service("epr", OpenApiRouter::new().routes(routes!(list)));
//! ```

mod admission;
mod auth;
mod config;
mod connection;
mod correlation;
mod document;
mod edge;
mod error;
mod extract;
mod metrics;
mod page;
mod parameters;
mod service;

pub use auth::{ApiKey, AuthConfig, Authenticator, Caller, KeyDigest};
pub use config::Config;
pub use edge::{BindError, Edge, Mounts};
pub use error::{Error, ErrorBody};
pub use extract::{Created, Json, Path, Query};
pub use page::{Page, PageOf};
pub use parameters::Parameters;
pub use service::service;
