//! Whether, where and when a device is pushed to.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use ids::{ApplicationName, CommandType, EndpointId, TenantId};
use sqlx::{Postgres, Transaction};

use super::Ledger;
use super::journal::Journal;
use super::lanes::{Held, Lanes, columns};
use crate::domain::Lane;

/// The lanes of endpoints that have something outstanding, or that somebody pushes at, maybe to nobody: what comes next must
/// not wait for that to end.
const CONCERNED: &str = "
SELECT l.tenant_id, l.endpoint_id, l.command_type, l.application_name, l.last_command_id, l.is_pushed, l.topic, l.due_at,
    l.lease, l.leased_at, l.leased_until, 0::bigint AS outstanding
FROM lanes l
WHERE l.endpoint_id = ANY($1) AND l.command_type <> ''
    AND (l.leased_until > statement_timestamp() OR EXISTS (SELECT FROM commands c
        WHERE c.tenant_id = l.tenant_id AND c.endpoint_id = l.endpoint_id AND c.command_type = l.command_type
            AND c.state IN ('CREATED', 'SENT', 'DELIVERED')))
ORDER BY l.tenant_id, l.endpoint_id, l.command_type
FOR UPDATE OF l";

/// What an endpoint's new connection has already got, or is about to get, stays where it is. One attempt is enough for a command
/// without time to live; whoever listens at a topic outside of 1/KP cannot tell duplicates: what it has acknowledged on whatever
/// connection, and what is on its way to it, stays where it is, too. And what may be what kills the device, whenever it has
/// connected, keeps its growing pauses: between them the device gets everything else.
const WAKE: &str = "
UPDATE commands c SET next_attempt_at = statement_timestamp(), pauses = 0
FROM unnest($1::text[], $2::text[], $3::text[], $4::boolean[], $5::timestamptz[])
    AS l (tenant_id, endpoint_id, command_type, is_gentle, since)
WHERE c.tenant_id = l.tenant_id AND c.endpoint_id = l.endpoint_id AND c.command_type = l.command_type
    AND c.state IN ('CREATED', 'SENT', 'DELIVERED') AND c.cancel_reason IS NULL
    AND NOT (c.is_once AND c.attempts > 0) AND c.unacknowledged < $6
    AND NOT (coalesce(l.is_gentle OR c.attempted_at > l.since, false)
        AND (c.state = 'DELIVERED' OR coalesce(c.attempt_until > statement_timestamp(), false)))";

/// So long after a connection is believed to have begun, an attempt was surely not made before it: events count in ms.
const CLOCK: Duration = Duration::from_millis(2);

/// So many pushes in a row that were not acknowledged are no accident.
const UNACKNOWLEDGED_MAX: i32 = 3;

/// Who has just connected goes before those to whom something is repeated: with many of them away, the backlog is long.
const PRECEDENCE: Duration = Duration::from_secs(3_600);

const NOW: &str = "SELECT statement_timestamp()";

/// Makes what is outstanding in locked lanes due now, but for what was attempted since the moment that is known of a lane.
async fn wake_lanes(
    transaction: &mut Transaction<'static, Postgres>,
    lanes: &mut Lanes,
    is_gentle: impl Fn(&Held) -> bool,
    since: impl Fn(&Lane) -> Option<DateTime<Utc>>,
) -> sqlx::Result<()> {
    let (tenants, endpoints, types) = columns(lanes.iter().map(|(lane, _)| lane));
    let gentle: Vec<bool> = lanes.iter().map(|(_, held)| is_gentle(held)).collect();
    let moments: Vec<Option<DateTime<Utc>>> = lanes.iter().map(|(lane, _)| since(lane)).collect();
    sqlx::query(WAKE)
        .bind(tenants)
        .bind(endpoints)
        .bind(types)
        .bind(gentle)
        .bind(moments)
        .bind(UNACKNOWLEDGED_MAX)
        .execute(&mut **transaction)
        .await?;
    let now: DateTime<Utc> = sqlx::query_scalar(NOW).fetch_one(&mut **transaction).await?;
    for (lane, held) in lanes.iter_mut() {
        held.look_at(now - PRECEDENCE);
        let is_since =
            since(lane).is_some_and(|since| held.leased_at.is_some_and(|leased_at| leased_at > since));
        if held.is_leased(now) && !is_gentle(held) && !is_since {
            // The end of the push under way changes nothing in the lane then.
            held.lease += 1;
            held.release();
        }
    }
    lanes.write(transaction).await
}

impl Ledger {
    /// Endpoints have connected, each at its moment: all their outstanding commands are due now, whoever held a lease then.
    pub(crate) async fn wake(&self, endpoints: &BTreeMap<EndpointId, DateTime<Utc>>) -> sqlx::Result<()> {
        let mut transaction = self.shared.pool.begin().await?;
        let ids: Vec<&str> = endpoints.keys().map(EndpointId::as_str).collect();
        let rows: Vec<Held> = sqlx::query_as(CONCERNED).bind(ids).fetch_all(&mut *transaction).await?;
        let mut lanes = Lanes::from(rows);
        if lanes.is_empty() {
            return Ok(());
        }
        let since = |lane: &Lane| endpoints.get(&lane.endpoint_id).map(|at| *at + CLOCK);
        wake_lanes(&mut transaction, &mut lanes, |held| held.topic.is_some(), since).await?;
        self.shared.commit(transaction, Journal::default()).await?;
        self.shared.due.notify_one();
        Ok(())
    }

    /// Whether commands are pushed to the endpoint: of one type, or of all.
    pub(crate) async fn observe(
        &self,
        tenant: &TenantId,
        endpoint: &EndpointId,
        application: &ApplicationName,
        command_type: Option<&CommandType>,
        observe: bool,
    ) -> sqlx::Result<()> {
        let wanted = command_type.map_or("", CommandType::as_str);
        // Devices say it with each request: only what changes something is written.
        let is_so: bool = sqlx::query_scalar(
            "SELECT NOT EXISTS (SELECT FROM lanes WHERE tenant_id = $1 AND endpoint_id = $2
                     AND ($3 = '' OR command_type = $3) AND is_pushed <> $4)
                 AND coalesce((SELECT is_pushed FROM lanes WHERE tenant_id = $1 AND endpoint_id = $2
                     AND command_type IN ($3, '') ORDER BY command_type DESC LIMIT 1), true) = $4",
        )
        .bind(tenant.as_str())
        .bind(endpoint.as_str())
        .bind(wanted)
        .bind(observe)
        .fetch_one(&self.shared.pool)
        .await?;
        if is_so {
            return Ok(());
        }
        let mut transaction = self.shared.pool.begin().await?;
        sqlx::query(
            "INSERT INTO lanes (tenant_id, endpoint_id, command_type, application_name, is_pushed)
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
        )
        .bind(tenant.as_str())
        .bind(endpoint.as_str())
        .bind(wanted)
        .bind(application.as_str())
        .bind(observe)
        .execute(&mut *transaction)
        .await?;
        sqlx::query(
            "WITH locked AS (
                 SELECT tenant_id, endpoint_id, command_type FROM lanes
                 WHERE tenant_id = $1 AND endpoint_id = $2 AND ($3 = '' OR command_type = $3)
                 ORDER BY command_type FOR UPDATE)
             UPDATE lanes l SET is_pushed = $4, due_at = CASE WHEN $4 AND l.command_type <> '' THEN statement_timestamp() END
             FROM locked
             WHERE l.tenant_id = locked.tenant_id AND l.endpoint_id = locked.endpoint_id
                 AND l.command_type = locked.command_type",
        )
        .bind(tenant.as_str())
        .bind(endpoint.as_str())
        .bind(wanted)
        .bind(observe)
        .execute(&mut *transaction)
        .await?;
        self.shared.commit(transaction, Journal::default()).await?;
        self.shared.due.notify_one();
        Ok(())
    }

    /// The device listens for commands of this type at a topic outside of 1/KP from now on; none: it speaks 1/KP again.
    /// What is outstanding is due now.
    pub(crate) async fn listen(
        &self,
        lane: &Lane,
        application: &ApplicationName,
        topic: Option<&str>,
    ) -> sqlx::Result<()> {
        if topic.is_none() && !self.has_topic(lane).await? {
            return Ok(());
        }
        let mut transaction = self.shared.pool.begin().await?;
        Lanes::add(&mut transaction, &BTreeMap::from([(lane, application)])).await?;
        let mut lanes = Lanes::lock(&mut transaction, &BTreeSet::from([lane]), |_| false).await?;
        for (_, held) in lanes.iter_mut() {
            held.topic = topic.map(ToOwned::to_owned);
            held.is_changed = true;
        }
        // It has just said that it listens: what was on its way before was for whoever listened then.
        wake_lanes(&mut transaction, &mut lanes, |_| false, |_| None).await?;
        self.shared.commit(transaction, Journal::default()).await?;
        self.shared.due.notify_one();
        Ok(())
    }

    async fn has_topic(&self, lane: &Lane) -> sqlx::Result<bool> {
        sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM lanes
             WHERE tenant_id = $1 AND endpoint_id = $2 AND command_type = $3 AND topic IS NOT NULL)",
        )
        .bind(lane.tenant.as_str())
        .bind(lane.endpoint_id.as_str())
        .bind(lane.command_type.as_str())
        .fetch_one(&self.shared.pool)
        .await
    }
}
