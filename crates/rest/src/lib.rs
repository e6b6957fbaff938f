//! The HTTP edge that all services share.
//!
//! A process has one listener, the [`Edge`]; the services of the process mount their routers there with full paths. A router made by
//! [`service`] gets what every REST API of the platform has: authentication and permissions, limits on body, time and number of requests, errors as
//! `{"message": "..."}`, a log line and a metric per request, a correlation id, and its OpenAPI document. Handlers take their
//! arguments with the extractors of this crate ([`Caller`], [`Json`], [`Path`], [`Query`], [`Parameters`], [`Page`]), whose refusals have the same
//! form, and fail with [`Error`].
//!
//! ```
//! # use rest::{Caller, Error, Page, PageOf, Rule, Scope, rule};
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
//! pub const ROUTES: &[Rule] = &[rule("GET", "/epr/api/v1/endpoints", "endpoint:read", Scope::Handler)];
//!
//! let router: axum::Router = rest::service("epr", ROUTES, OpenApiRouter::new().routes(routes!(list)));
//! ```

mod access;
mod admission;
mod auth;
mod caller;
mod config;
mod connection;
mod correlation;
mod document;
mod edge;
mod error;
mod etag;
mod extract;
mod metrics;
mod page;
mod parameters;
mod permission;
mod service;
mod stopping;
mod tls;

pub use access::{Access, Verify, Verifying};
pub use auth::{ApiKey, AuthConfig, Authenticator, KeyDigest};
pub use caller::Caller;
pub use config::Config;
pub use connection::OverTls;
pub use edge::{BindError, Edge, Mounts};
pub use error::{Error, ErrorBody};
pub use etag::{IfMatch, IfNoneMatch, not_modified, tagged};
pub use extract::{Created, Json, Path, Query};
pub use page::{Page, PageOf};
pub use parameters::Parameters;
pub use permission::{Permission, Role, Rule, Scope, rule};
pub use service::service;
pub use stopping::Stopping;
pub use tls::{Https, TlsConfig};
