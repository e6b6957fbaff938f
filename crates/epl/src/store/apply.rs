//! Taking changes in: one transaction for a batch of them.

use std::collections::{BTreeMap, BTreeSet};

use ids::{AppVersionName, EndpointId, ReplicaId};
use sqlx::PgConnection;

use super::Store;
use crate::presence::{Applied, Change, Endpoint, Presence, Transition, What};

/// What became of the changes of a batch.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) outdated: u64,
    pub(crate) noted: u64,
    pub(crate) connected: u64,
    pub(crate) disconnected: u64,
}

/// The endpoints of a batch, and what is new of them.
struct Batch<'a> {
    endpoints: BTreeMap<&'a str, Endpoint>,
    told: BTreeSet<(&'a EndpointId, &'a ReplicaId)>,
    changed: BTreeSet<&'a EndpointId>,
    points: Vec<(&'a EndpointId, AppVersionName, Transition)>,
    counts: Counts,
}

impl Store {
    /// Takes changes in, in their order, all or none of them. What follows from them waits in the tables to be told. To do
    /// it twice is as good as once.
    pub(crate) async fn apply(&self, changes: &[Change], now_ms: i64) -> sqlx::Result<Counts> {
        let mut transaction = self.pool.begin().await?;
        let mut batch = Batch {
            endpoints: lock(&mut transaction, changes).await?,
            told: BTreeSet::new(),
            changed: BTreeSet::new(),
            points: Vec::new(),
            counts: Counts::default(),
        };
        for change in changes {
            batch.take(change, now_ms);
        }
        batch.write_presences(&mut transaction).await?;
        batch.write_endpoints(&mut transaction).await?;
        batch.write_points(&mut transaction).await?;
        transaction.commit().await?;
        Ok(batch.counts)
    }
}

/// Reads the endpoints of the changes and holds them until the end of the transaction. Everybody takes them in the order of
/// their ids, so that nobody waits crosswise.
async fn lock<'a>(
    connection: &mut PgConnection,
    changes: &'a [Change],
) -> sqlx::Result<BTreeMap<&'a str, Endpoint>> {
    let mut ids: BTreeMap<&'a str, Option<&'a str>> = BTreeMap::new();
    for change in changes {
        let known = ids.entry(change.endpoint.as_str()).or_default();
        match &change.what {
            What::Connected(version) | What::Disconnected(version) => *known = Some(version.as_str()),
            What::Died => {}
        }
    }
    // Only what a gateway tells makes an endpoint known.
    let (told, versions): (Vec<&str>, Vec<&str>) =
        ids.iter().filter_map(|(id, version)| Some((*id, (*version)?))).unzip();
    sqlx::query(
        "INSERT INTO endpoints (endpoint_id, app_version_name)
         SELECT * FROM unnest($1::text[], $2::text[]) AS told (endpoint_id, app_version_name)
         ORDER BY endpoint_id COLLATE \"C\" ON CONFLICT ON CONSTRAINT endpoints_pkey DO NOTHING",
    )
    .bind(told)
    .bind(versions)
    .execute(&mut *connection)
    .await?;
    let all: Vec<&str> = ids.keys().copied().collect();
    let rows: Vec<(String, String, Option<bool>, i64, i64)> = sqlx::query_as(
        "SELECT endpoint_id, app_version_name, is_connected, changed_ms, transitions FROM endpoints
         WHERE endpoint_id = ANY ($1) ORDER BY endpoint_id FOR UPDATE",
    )
    .bind(&all)
    .fetch_all(&mut *connection)
    .await?;
    let mut endpoints = BTreeMap::new();
    for (id, app_version, is_connected, changed_ms, transitions) in rows {
        let (Some((id, _)), Ok(app_version)) =
            (ids.get_key_value(id.as_str()), AppVersionName::parse(&app_version))
        else {
            continue;
        };
        let endpoint = Endpoint { is_connected, changed_ms, transitions, ..Endpoint::new(app_version) };
        endpoints.insert(*id, endpoint);
    }
    read_presences(connection, &all, &mut endpoints).await?;
    Ok(endpoints)
}

async fn read_presences(
    connection: &mut PgConnection,
    ids: &[&str],
    endpoints: &mut BTreeMap<&str, Endpoint>,
) -> sqlx::Result<()> {
    let rows: Vec<(String, String, bool, i64)> = sqlx::query_as(
        "SELECT endpoint_id, replica_id, is_up, event_ms FROM presences WHERE endpoint_id = ANY ($1)",
    )
    .bind(ids)
    .fetch_all(connection)
    .await?;
    for (id, replica, is_up, event_ms) in rows {
        let (Some(endpoint), Ok(replica)) = (endpoints.get_mut(id.as_str()), ReplicaId::parse(&replica))
        else {
            continue;
        };
        endpoint.presences.insert(replica, Presence { is_up, event_ms });
    }
    Ok(())
}

impl<'a> Batch<'a> {
    fn take(&mut self, change: &'a Change, now_ms: i64) {
        let Some(endpoint) = self.endpoints.get_mut(change.endpoint.as_str()) else {
            // It was deleted in between.
            self.counts.outdated += 1;
            return;
        };
        match endpoint.apply(change, now_ms) {
            Applied::Outdated => {
                self.counts.outdated += 1;
                return;
            }
            Applied::Noted => self.counts.noted += 1,
            Applied::Changed(transition) => {
                let count = if transition.is_connected {
                    &mut self.counts.connected
                } else {
                    &mut self.counts.disconnected
                };
                *count += 1;
                self.changed.insert(&change.endpoint);
                self.points.push((&change.endpoint, endpoint.app_version.clone(), transition));
            }
        }
        self.told.insert((&change.endpoint, &change.replica));
    }

    async fn write_presences(&self, connection: &mut PgConnection) -> sqlx::Result<()> {
        let (mut ids, mut replicas, mut are_up, mut events_ms) = (vec![], vec![], vec![], vec![]);
        for (id, replica) in &self.told {
            let endpoint = self.endpoints.get(id.as_str());
            let Some(presence) = endpoint.and_then(|endpoint| endpoint.presences.get(*replica)) else {
                continue;
            };
            ids.push(id.as_str());
            replicas.push(replica.as_str());
            are_up.push(presence.is_up);
            events_ms.push(presence.event_ms);
        }
        sqlx::query(
            "INSERT INTO presences (endpoint_id, replica_id, is_up, event_ms, heard_at)
             SELECT endpoint_id, replica_id, is_up, event_ms, now()
             FROM unnest($1::text[], $2::text[], $3::boolean[], $4::bigint[])
                 AS told (endpoint_id, replica_id, is_up, event_ms)
             ON CONFLICT ON CONSTRAINT presences_pkey DO UPDATE
             SET is_up = excluded.is_up, event_ms = excluded.event_ms, heard_at = excluded.heard_at",
        )
        .bind(ids)
        .bind(replicas)
        .bind(are_up)
        .bind(events_ms)
        .execute(connection)
        .await
        .map(drop)
    }

    /// Writes the endpoints of which something was told. Those that changed have metadata to be written.
    async fn write_endpoints(&self, connection: &mut PgConnection) -> sqlx::Result<()> {
        let (mut ids, mut versions, mut are_connected, mut changed_ms, mut transitions, mut have_changed) =
            (vec![], vec![], vec![], vec![], vec![], vec![]);
        let told: BTreeSet<&EndpointId> = self.told.iter().map(|(id, _)| *id).collect();
        for id in told {
            let Some(endpoint) = self.endpoints.get(id.as_str()) else { continue };
            ids.push(id.as_str());
            versions.push(endpoint.app_version.as_str());
            are_connected.push(endpoint.is_connected);
            changed_ms.push(endpoint.changed_ms);
            transitions.push(endpoint.transitions);
            have_changed.push(self.changed.contains(id));
        }
        sqlx::query(
            "UPDATE endpoints
             SET app_version_name = told.app_version_name, is_connected = told.is_connected,
                 changed_ms = told.changed_ms, transitions = told.transitions,
                 metadata_pending = metadata_pending OR has_changed
             FROM unnest($1::text[], $2::text[], $3::boolean[], $4::bigint[], $5::bigint[], $6::boolean[])
                 AS told (endpoint_id, app_version_name, is_connected, changed_ms, transitions, has_changed)
             WHERE endpoints.endpoint_id = told.endpoint_id
                 AND (has_changed OR endpoints.app_version_name <> told.app_version_name)",
        )
        .bind(ids)
        .bind(versions)
        .bind(are_connected)
        .bind(changed_ms)
        .bind(transitions)
        .bind(have_changed)
        .execute(connection)
        .await
        .map(drop)
    }

    async fn write_points(&self, connection: &mut PgConnection) -> sqlx::Result<()> {
        if self.points.is_empty() {
            return Ok(());
        }
        sqlx::query(
            "INSERT INTO points (endpoint_id, app_version_name, is_connected, changed_ms)
             SELECT * FROM unnest($1::text[], $2::text[], $3::boolean[], $4::bigint[])",
        )
        .bind(self.points.iter().map(|(id, _, _)| id.as_str()).collect::<Vec<_>>())
        .bind(self.points.iter().map(|(_, version, _)| version.as_str()).collect::<Vec<_>>())
        .bind(self.points.iter().map(|(_, _, transition)| transition.is_connected).collect::<Vec<_>>())
        .bind(self.points.iter().map(|(_, _, transition)| transition.at_ms).collect::<Vec<_>>())
        .execute(connection)
        .await
        .map(drop)
    }
}
