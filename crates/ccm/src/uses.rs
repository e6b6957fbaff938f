//! When credentials were last used: gathered in memory and written now and then, so that a login costs no write.
//!
//! For people to look at: what was gathered is lost when the process dies.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::error::Error;
use crate::metrics::Method;
use crate::store::{Basic, Store, X509};

/// A use is written when the last one that was written is older than this.
const STALE_AFTER: TimeDelta = TimeDelta::minutes(1);
/// Uses that wait to be written; above, they are noted at the next login.
const WAITING_MAX: usize = 50_000;
const WRITE_EVERY: Duration = Duration::from_secs(2);

pub(crate) struct Uses {
    store: Store,
    waiting: Mutex<HashMap<(Method, Uuid), DateTime<Utc>>>,
}

impl Uses {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, waiting: Mutex::default() }
    }

    /// Credentials were used now.
    pub(crate) fn note(&self, method: Method, id: Uuid, written: Option<DateTime<Utc>>) {
        let now = Utc::now();
        if written.is_some_and(|written| now - written < STALE_AFTER) {
            return;
        }
        let mut waiting = self.waiting.lock();
        if waiting.len() < WAITING_MAX || waiting.contains_key(&(method, id)) {
            waiting.insert((method, id), now);
        }
    }

    /// Writes for as long as the service runs.
    pub(crate) async fn follow(&self, stopping: CancellationToken) -> anyhow::Result<()> {
        loop {
            let stop = tokio::select! {
                () = tokio::time::sleep(WRITE_EVERY) => false,
                () = stopping.cancelled() => true,
            };
            if let Err(error) = self.write().await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "times of last use could not be written: they stay as they were"
                );
            }
            if stop {
                return Ok(());
            }
        }
    }

    async fn write(&self) -> Result<(), Error> {
        let waiting = std::mem::take(&mut *self.waiting.lock());
        let of = |method| {
            waiting.iter().filter(move |((of, _), _)| *of == method).map(|((_, id), at)| (*id, *at)).unzip()
        };
        let (ids, times): (Vec<Uuid>, Vec<DateTime<Utc>>) = of(Method::Basic);
        if !ids.is_empty() {
            self.store.note_uses::<Basic>(&ids, &times).await?;
        }
        let (ids, times): (Vec<Uuid>, Vec<DateTime<Utc>>) = of(Method::Certificate);
        if !ids.is_empty() {
            self.store.note_uses::<X509>(&ids, &times).await?;
        }
        Ok(())
    }
}
