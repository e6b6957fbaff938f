//! The SDK for extension services (4/ESP).
//!
//! An extension implements what devices can ask for under `kp1/<version>/<extension>/<token>/...`. It declares its
//! resource paths and handlers ([`Extension`]); decoding, deadlines, limits, answers, metrics, tracing and the
//! registration with the gateway are done here. Nothing in the gateway names an extension.
//!
//! ```no_run
//! use std::process::ExitCode;
//! use std::sync::Arc;
//!
//! use extension::{Extension, Json, Refusal, Routes};
//! use serde_json::Value;
//!
//! /// Answers a device's `kp1/<version>/echo/<token>/json[/<id>]` with what it sent.
//! #[derive(Default)]
//! struct Echo;
//!
//! impl Extension for Echo {
//!     const NAME: &'static str = "echo";
//!
//!     fn routes(routes: Routes<Self>) -> Routes<Self> {
//!         routes.on("json", Echo::json)
//!     }
//! }
//!
//! impl Echo {
//!     async fn json(self: Arc<Self>, Json(sample): Json<Value>) -> Result<Json<Value>, Refusal> {
//!         if sample.is_null() {
//!             return Err(Refusal::bad_request("a sample may not be null"));
//!         }
//!         Ok(Json(sample))
//!     }
//! }
//!
//! fn main() -> ExitCode {
//!     extension::main::<Echo>()
//! }
//! ```

mod alone;
mod gateway;
mod handler;
mod message;
mod metrics;
mod registration;
mod reply;
mod routes;
mod serve;

pub use alone::main;
pub use gateway::{Delivery, Gateway};
pub use handler::Handler;
pub use message::{Endpoint, FromMessage, Json, Message, Parameters, Payload};
pub use registration::{BUCKET, Registration, bucket, follower_subjects, subjects};
pub use reply::{IntoReply, Refusal, Reply};
pub use routes::Routes;
pub use serve::{Limits, serve};

/// An extension service: its name and what it answers.
pub trait Extension: Send + Sync + Sized + 'static {
    /// The instance name: the level behind the application version in a device's path.
    const NAME: &'static str;

    /// The version that is announced.
    const VERSION: &'static str = "1.0.0";

    /// Whether the paths hold an endpoint token (1/KP: endpoint-aware).
    const ENDPOINT_AWARE: bool = true;

    /// Declares the resource paths.
    fn routes(routes: Routes<Self>) -> Routes<Self>;
}
