//! What must be done now and then: old rows go, keys are read anew, cut-off work is finished.

use std::sync::Arc;
use std::time::Duration;

use runtime::Context;
use tokio::time::MissedTickBehavior;

use crate::announcer::Announcer;
use crate::error::Error;
use crate::keyring::KeyRing;
use crate::store::Store;

const EVERY: Duration = Duration::from_secs(60);
/// Rows that go at once; the rest goes the next time.
const ROWS_MAX: i64 = 10_000;
/// How long revoked and expired API keys stay in the list.
const OLD_API_KEYS_DAYS: i32 = 90;

/// Starts the work; it goes on as long as the service runs.
pub(crate) fn start(context: &Context, store: Store, keyring: Arc<KeyRing>, announcer: Announcer) {
    let stopping = context.stopping();
    context.spawn("keep house", async move {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stopping.cancelled() => return Ok(()),
            }
            for (what, done) in [
                ("signing keys cannot be read", keyring.reread().await),
                ("deleted tenants cannot be announced", announcer.catch_up().await),
                ("old rows cannot be deleted", clean(&store).await),
            ] {
                if let Err(error) = done {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "{what}; trying again in a minute"
                    );
                }
            }
        }
    });
}

async fn clean(store: &Store) -> Result<(), Error> {
    let sessions = store.delete_old_sessions(ROWS_MAX).await?;
    let failures = store.delete_old_login_failures(ROWS_MAX).await?;
    let api_keys = store.delete_old_api_keys(OLD_API_KEYS_DAYS, ROWS_MAX).await?;
    let signing_keys = store.delete_old_signing_keys().await?;
    tracing::debug!(sessions, failures, api_keys, signing_keys, "old rows were deleted");
    Ok(())
}
