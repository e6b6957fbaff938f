//! Claims of lanes, and their end.

use super::journal::Journal;
use super::lanes::{Held, Lanes};
use super::settle::Settlement;
use super::{Claim, Ledger, Pushed, claims};

/// Others who lock a lane are about to do what is due.
const DUE: &str = "
SELECT l.tenant_id, l.endpoint_id, l.command_type, l.application_name, l.last_command_id, l.is_pushed, l.topic, l.due_at,
    l.lease, l.leased_at, l.leased_until, 0::bigint AS outstanding
FROM lanes l
WHERE l.due_at <= statement_timestamp() AND (l.leased_until IS NULL OR l.leased_until <= statement_timestamp())
    AND l.command_type <> ''
ORDER BY l.due_at LIMIT $1
FOR UPDATE OF l SKIP LOCKED";

impl Ledger {
    /// Claims lanes with something due to push, at most so many. None are claimed only when none are due.
    pub(crate) async fn due(&self, lanes_max: u32) -> sqlx::Result<Vec<Claim>> {
        let shared = &self.shared;
        loop {
            let mut transaction = shared.pool.begin().await?;
            let rows: Vec<Held> =
                sqlx::query_as(DUE).bind(i64::from(lanes_max)).fetch_all(&mut *transaction).await?;
            let mut lanes = Lanes::from(rows);
            if lanes.is_empty() {
                return Ok(Vec::new());
            }
            for (_, held) in lanes.iter_mut() {
                held.is_wanted = true;
            }
            let claims = claims::claim(&mut transaction, &shared.config, &mut lanes).await?;
            lanes.write(&mut transaction).await?;
            shared.commit(transaction, Journal::default()).await?;
            let claims = claims.into_all();
            if !claims.is_empty() {
                return Ok(claims);
            }
        }
    }

    /// Writes down how a push ended, gives the lane back, and claims it anew when more is due.
    pub(crate) async fn settle(&self, claim: Claim, pushed: Pushed) -> sqlx::Result<Option<Claim>> {
        self.writers.settle(Settlement { claim, pushed: Some(pushed) }).await
    }

    /// Gives a claim back of which nothing was pushed: as if it had not been claimed, and due now.
    pub(crate) async fn give_back(&self, claim: Claim) -> sqlx::Result<()> {
        self.writers.settle(Settlement { claim, pushed: None }).await.map(drop)
    }
}
