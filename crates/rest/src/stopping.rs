//! The end of the edge, for handlers that wait.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::edge::Policy;

/// Says when the process begins to stop. A handler that waits for something long must answer then, because the edge waits for its
/// running requests before any service is stopped, and only for `process.stop_grace_ms`.
#[derive(Debug, Clone)]
pub struct Stopping(CancellationToken);

impl Stopping {
    /// Waits until the process begins to stop.
    pub async fn begun(&self) {
        self.0.cancelled().await;
    }
}

impl<S: Sync> FromRequestParts<S> for Stopping {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        let policy: &Arc<Policy> = parts.extensions.get().ok_or_else(Error::not_mounted)?;
        Ok(Self(policy.stopping.clone()))
    }
}
