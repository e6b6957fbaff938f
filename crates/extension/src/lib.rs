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

use std::sync::Arc;

mod alone;
mod gateway;
mod handler;
mod message;
mod metrics;
mod prefer;
mod registration;
mod reply;
mod reports;
mod routes;
mod serve;
mod topics;

pub use alone::main;
pub use gateway::{Delivery, Gateway};
pub use handler::Handler;
pub use message::{Endpoint, FromMessage, Json, Message, Parameters, Payload};
pub use prefer::{PREFER, preferred_wait_s};
pub use registration::{BUCKET, Registration, bucket, follower_subjects, subjects};
pub use reply::{IntoReply, Refusal, Reply};
pub use routes::Routes;
pub use serve::{Limits, serve, serve_with};
pub use topics::{TopicPublication, TopicPush, TopicSubscription, topic_subjects};

/// An extension service: its name and what it answers.
pub trait Extension: Send + Sync + Sized + 'static {
    /// The instance name: the level behind the application version in a device's path.
    const NAME: &'static str;

    /// The version that is announced.
    const VERSION: &'static str = "1.0.0";

    /// Whether the paths hold an endpoint token (1/KP: endpoint-aware).
    const ENDPOINT_AWARE: bool = true;

    /// Topics outside of 1/KP that the extension serves, such as `cmd/{thing}/req`: a level in braces stands for any one level.
    /// Of two extensions with the same topic the gateway asks the one whose name comes first. Add
    /// [`topic_subjects`] to what the extension may do on NATS.
    const TOPICS: &'static [&'static str] = &[];

    /// Declares the resource paths.
    fn routes(routes: Routes<Self>) -> Routes<Self>;

    /// Says whether a client may subscribe to topics of [`TOPICS`](Self::TOPICS). It does once this has answered; what is sent to the
    /// topic from now on, also before that, reaches it after its SUBACK.
    fn subscribe(
        self: Arc<Self>,
        subscription: TopicSubscription,
    ) -> impl Future<Output = Result<(), Refusal>> + Send {
        std::future::ready(Err(unserved(&subscription.topic_filter)))
    }

    /// Takes what a client published to a topic of [`TOPICS`](Self::TOPICS). Its acknowledgement is made of the answer, as for
    /// [`Refusal`].
    fn publish(
        self: Arc<Self>,
        publication: TopicPublication,
    ) -> impl Future<Output = Result<(), Refusal>> + Send {
        std::future::ready(Err(unserved(&publication.topic)))
    }
}

fn unserved(topic: &str) -> Refusal {
    Refusal::not_found(format!("the extension does not serve '{topic}'"))
}
