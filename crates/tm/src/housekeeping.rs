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
/// Rows that go in one statement.
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
                ("deleted tenants cannot be announced again", announcer.tell_again().await),
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

/// Deletes what is old, all of it: whoever guesses user names adds rows faster than one statement a minute takes them away.
async fn clean(store: &Store) -> Result<(), Error> {
    let max = u64::try_from(ROWS_MAX).unwrap_or(u64::MAX);
    while store.delete_old_sessions(ROWS_MAX).await? >= max {}
    while store.delete_old_login_failures(ROWS_MAX).await? >= max {}
    while store.delete_old_api_keys(OLD_API_KEYS_DAYS, ROWS_MAX).await? >= max {}
    store.delete_old_signing_keys().await?;
    Ok(())
}
