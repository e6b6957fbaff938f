//! Lanes: read under their locks, changed in memory, written back with the same transaction.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use ids::{ApplicationName, CommandType, EndpointId, TenantId};
use sqlx::PgConnection;

use crate::domain::Lane;

const LOCK: &str = "
SELECT l.tenant_id, l.endpoint_id, l.command_type, l.application_name, l.last_command_id, l.is_pushed, l.topic, l.due_at,
    l.lease, l.leased_at, l.leased_until,
    CASE WHEN w.is_counted THEN (SELECT count(*) FROM commands c
        WHERE c.tenant_id = l.tenant_id AND c.endpoint_id = l.endpoint_id
            AND c.state IN ('CREATED', 'SENT', 'DELIVERED')) ELSE 0 END AS outstanding
FROM unnest($1::text[], $2::text[], $3::text[], $4::boolean[]) AS w (tenant_id, endpoint_id, command_type, is_counted)
JOIN lanes l USING (tenant_id, endpoint_id, command_type)
ORDER BY l.tenant_id, l.endpoint_id, l.command_type
FOR UPDATE OF l";

/// The lane of all types says whether a new one is pushed to.
const ADD: &str = "
INSERT INTO lanes (tenant_id, endpoint_id, command_type, application_name, is_pushed)
SELECT w.tenant_id, w.endpoint_id, w.command_type, w.application_name,
    coalesce((SELECT a.is_pushed FROM lanes a
        WHERE a.tenant_id = w.tenant_id AND a.endpoint_id = w.endpoint_id AND a.command_type = ''), true)
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS w (tenant_id, endpoint_id, command_type, application_name)
WHERE NOT EXISTS (SELECT FROM lanes l
    WHERE l.tenant_id = w.tenant_id AND l.endpoint_id = w.endpoint_id AND l.command_type = w.command_type)
ORDER BY 1, 2, 3
ON CONFLICT DO NOTHING";

const WRITE: &str = "
UPDATE lanes l SET application_name = w.application_name, last_command_id = w.last_command_id, topic = w.topic, due_at = w.due_at, lease = w.lease,
    leased_at = w.leased_at, leased_until = w.leased_until
FROM unnest($1::text[], $2::text[], $3::text[], $4::integer[], $5::text[], $6::timestamptz[], $7::bigint[],
    $8::timestamptz[], $9::text[], $10::timestamptz[])
    AS w (tenant_id, endpoint_id, command_type, last_command_id, topic, due_at, lease, leased_until, application_name, leased_at)
WHERE l.tenant_id = w.tenant_id AND l.endpoint_id = w.endpoint_id AND l.command_type = w.command_type";

/// A lane whose row is locked.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(super) struct Held {
    #[sqlx(try_from = "String")]
    tenant_id: TenantId,
    #[sqlx(try_from = "String")]
    endpoint_id: EndpointId,
    #[sqlx(try_from = "String")]
    command_type: CommandType,
    #[sqlx(try_from = "String")]
    pub(super) application_name: ApplicationName,
    pub(super) last_command_id: i32,
    pub(super) is_pushed: bool,
    pub(super) topic: Option<String>,
    pub(super) due_at: Option<DateTime<Utc>>,
    pub(super) lease: i64,
    /// When the last lease began.
    pub(super) leased_at: Option<DateTime<Utc>>,
    pub(super) leased_until: Option<DateTime<Utc>>,
    /// Commands of the endpoint, of all types; only where they were to be counted.
    pub(super) outstanding: i64,
    /// To be written back.
    #[sqlx(skip)]
    pub(super) is_changed: bool,
    /// To be claimed.
    #[sqlx(skip)]
    pub(super) is_wanted: bool,
    /// Somebody is to look at it who does not hold it now.
    #[sqlx(skip)]
    is_to_be_looked_at: bool,
}

impl Held {
    pub(super) fn lane(&self) -> Lane {
        Lane {
            tenant: self.tenant_id.clone(),
            endpoint_id: self.endpoint_id.clone(),
            command_type: self.command_type.clone(),
        }
    }

    pub(super) fn is_leased(&self, now: DateTime<Utc>) -> bool {
        self.leased_until.is_some_and(|until| until > now)
    }

    /// Ends the lease, whoever holds it.
    pub(super) fn release(&mut self) {
        self.leased_until = None;
        self.is_changed = true;
    }

    /// Has somebody look at the lane at this moment at the latest.
    pub(super) fn look_at(&mut self, moment: DateTime<Utc>) {
        if self.is_pushed && self.due_at.is_none_or(|due_at| due_at > moment) {
            self.due_at = Some(moment);
            self.is_changed = true;
            self.is_to_be_looked_at = true;
        }
    }
}

/// Lanes whose rows are locked.
#[derive(Debug, Default)]
pub(super) struct Lanes(BTreeMap<Lane, Held>);

impl Lanes {
    /// Makes the lanes that are missing.
    pub(super) async fn add(
        connection: &mut PgConnection,
        lanes: &BTreeMap<&Lane, &ApplicationName>,
    ) -> sqlx::Result<()> {
        let (tenants, endpoints, types) = columns(lanes.keys().copied());
        let applications: Vec<&str> = lanes.values().map(|application| application.as_str()).collect();
        sqlx::query(ADD)
            .bind(tenants)
            .bind(endpoints)
            .bind(types)
            .bind(applications)
            .execute(connection)
            .await?;
        Ok(())
    }

    /// Locks these lanes, as far as there are any, and counts what is outstanding for the endpoints of some.
    pub(super) async fn lock(
        connection: &mut PgConnection,
        lanes: &BTreeSet<&Lane>,
        counted: impl Fn(&Lane) -> bool,
    ) -> sqlx::Result<Self> {
        let (tenants, endpoints, types) = columns(lanes.iter().copied());
        let counted: Vec<bool> = lanes.iter().map(|lane| counted(lane)).collect();
        let rows: Vec<Held> = sqlx::query_as(LOCK)
            .bind(tenants)
            .bind(endpoints)
            .bind(types)
            .bind(counted)
            .fetch_all(connection)
            .await?;
        Ok(Self::from(rows))
    }

    pub(super) fn get_mut(&mut self, lane: &Lane) -> Option<&mut Held> {
        self.0.get_mut(lane)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Lane, &Held)> {
        self.0.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (&Lane, &mut Held)> {
        self.0.iter_mut()
    }

    /// Whether somebody is to look for what is due, once the lanes are no longer held.
    pub(super) fn are_to_be_looked_at(&self) -> bool {
        self.0.values().any(|held| held.is_to_be_looked_at)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Writes back what was changed.
    pub(super) async fn write(&self, connection: &mut PgConnection) -> sqlx::Result<()> {
        let changed = || self.0.iter().filter(|(_, held)| held.is_changed);
        if changed().next().is_none() {
            return Ok(());
        }
        let (tenants, endpoints, types) = columns(changed().map(|(lane, _)| lane));
        let held = || changed().map(|(_, held)| held);
        sqlx::query(WRITE)
            .bind(tenants)
            .bind(endpoints)
            .bind(types)
            .bind(held().map(|held| held.last_command_id).collect::<Vec<_>>())
            .bind(held().map(|held| held.topic.as_deref()).collect::<Vec<_>>())
            .bind(held().map(|held| held.due_at).collect::<Vec<_>>())
            .bind(held().map(|held| held.lease).collect::<Vec<_>>())
            .bind(held().map(|held| held.leased_until).collect::<Vec<_>>())
            .bind(held().map(|held| held.application_name.as_str()).collect::<Vec<_>>())
            .bind(held().map(|held| held.leased_at).collect::<Vec<_>>())
            .execute(connection)
            .await?;
        Ok(())
    }
}

impl From<Vec<Held>> for Lanes {
    fn from(rows: Vec<Held>) -> Self {
        Self(rows.into_iter().map(|held| (held.lane(), held)).collect())
    }
}

/// Tenants, endpoints and command types, each as a column.
pub(super) fn columns<'a>(
    lanes: impl Iterator<Item = &'a Lane>,
) -> (Vec<&'a str>, Vec<&'a str>, Vec<&'a str>) {
    let mut columns = (Vec::new(), Vec::new(), Vec::new());
    for lane in lanes {
        columns.0.push(lane.tenant.as_str());
        columns.1.push(lane.endpoint_id.as_str());
        columns.2.push(lane.command_type.as_str());
    }
    columns
}
