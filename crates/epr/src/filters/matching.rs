//! Matches the endpoints of an application against filters that are PENDING, and removes the matches of deleted ones.
//!
//! Each step is a transaction over some endpoints in the order of their list, which leaves behind in the filter's row how far it
//! came: whoever dies in between, another goes on from there. The filter's row is locked meanwhile, and passed over by
//! the other replicas, which take another filter.
//!
//! Endpoints change while this goes on, and their writers evaluate the filter themselves (see `set`). A step therefore
//! locks the rows of those endpoints whose match it is about to add or to remove, and judges them as they are then; all
//! others it does not touch.

use std::collections::{HashMap, HashSet};
use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use runtime::Context;
use serde_json::{Map, Value};
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection, PgPool, Postgres, QueryBuilder};
use tokio::sync::Notify;
use uuid::Uuid;

use super::definition::parse_sent;
use super::events::{self, Change, Changes, Turn};
use super::membership::{Counter, Pairs, Turns, apply};
use super::parse::InvalidQuery;
use super::query::Query;
use super::sql::{self, Bound};

/// Matches of a deleted filter that go in one transaction.
const REMOVED_AT_ONCE: i64 = 10_000;
/// With a regular expression metadata are read to be evaluated here: by so much fewer endpoints at once.
const REGEX_SHARE: i64 = 10;
/// After a step that took longer than the database allows: by so much fewer endpoints at once.
const SLOW_SHARE: i64 = 10;
/// After a failure of the database.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Works off what is to be matched and removed.
pub(super) struct Matcher {
    pub(super) context: Context,
    pub(super) steps: Steps,
    pub(super) poll_interval: Duration,
    /// A filter was created, changed or deleted here.
    pub(super) wake: Arc<Notify>,
}

/// The steps, one after the other.
pub(super) struct Steps {
    pub(super) pool: PgPool,
    /// Endpoints that one step goes through.
    pub(super) batch_endpoints: i64,
}

/// A filter that is not ACTIVE.
#[derive(Debug, FromRow)]
struct Work {
    filter_id: Uuid,
    tenant_id: String,
    application_name: String,
    name: String,
    mongo_query: String,
    is_deleted: bool,
    was_active: bool,
    looked_at_created_at: Option<DateTime<Utc>>,
    looked_at_endpoint_id: Option<String>,
    step_endpoints: Option<i64>,
}

/// An endpoint that is to be looked at closely.
#[derive(FromRow)]
struct Candidate {
    endpoint_id: String,
    app_version_name: String,
    was_matched: bool,
    /// Only with regular expressions: else SQL has told already that it matches now if it did not, and the other way round.
    metadata: Option<Json<Map<String, Value>>>,
}

/// What a step did.
pub(super) enum Step {
    Nothing,
    Removed,
    Looked(Looked),
    /// A filter of another version of the service, for one that can read it.
    Unreadable(Uuid, InvalidQuery),
    /// Its turn comes again after that of the others.
    Failed(Uuid, sqlx::Error),
}

/// What others are to be told of a step.
pub(super) struct Looked {
    filter_id: Uuid,
    name: String,
    application: String,
    pub(super) changes: Changes,
    pub(super) is_active: bool,
}

impl Matcher {
    /// Runs until the service stops.
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let stopping = self.context.stopping();
        // In this round: one filter that cannot be matched must not hold up the others. And of which that is known.
        let (mut passed_over, mut told) = (Vec::new(), HashSet::new());
        while !stopping.is_cancelled() {
            let pause = match self.steps.next(&passed_over).await {
                Ok(Step::Looked(looked)) => {
                    self.tell(&looked).await;
                    continue;
                }
                Ok(Step::Removed) => continue,
                Ok(Step::Unreadable(filter_id, error)) => {
                    passed_over.push(filter_id);
                    if told.insert(filter_id) {
                        tracing::error!(%error, %filter_id, "a filter cannot be read and stays PENDING");
                    }
                    continue;
                }
                Ok(Step::Failed(filter_id, error)) => {
                    passed_over.push(filter_id);
                    tracing::warn!(
                        error = &error as &dyn StdError,
                        %filter_id,
                        "endpoints could not be matched against a filter; it stays PENDING, and it is tried again"
                    );
                    continue;
                }
                Ok(Step::Nothing) => self.poll_interval,
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn StdError,
                        "filters could not be matched; trying again"
                    );
                    RETRY_AFTER
                }
            };
            passed_over.clear();
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.wake.notified() => {}
                () = stopping.cancelled() => {}
            }
        }
        Ok(())
    }

    async fn tell(&self, looked: &Looked) {
        let correlation_id = Uuid::new_v4().to_string();
        looked.changes.publish(&self.context, &correlation_id).await;
        if looked.is_active {
            let Looked { filter_id, name, application, .. } = looked;
            events::announce(&self.context, &correlation_id, Turn::Activated, application, *filter_id, name)
                .await;
        }
    }
}

impl Steps {
    /// The next step, of a filter that is not passed over.
    pub(super) async fn next(&self, passed_over: &[Uuid]) -> Result<Step, sqlx::Error> {
        let mut transaction = self.pool.begin().await?;
        // The one that has waited longest, so that a large application does not hold up the others.
        let work: Option<Work> = sqlx::query_as(
            "SELECT filter_id, tenant_id, application_name, name, mongo_query::text AS mongo_query,
                 status = 'DELETED' AS is_deleted, activated_at IS NOT NULL AS was_active, looked_at_created_at,
                 looked_at_endpoint_id, step_endpoints
             FROM endpoint_filters WHERE status <> 'ACTIVE' AND filter_id <> ALL ($1)
             ORDER BY worked_at LIMIT 1 FOR UPDATE SKIP LOCKED",
        )
        .bind(passed_over)
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(work) = work else { return Ok(Step::Nothing) };
        if work.is_deleted {
            remove(&mut transaction, work.filter_id).await?;
            transaction.commit().await?;
            return Ok(Step::Removed);
        }
        let query = match parse_sent(&work.mongo_query) {
            Ok(query) => query,
            Err(error) => {
                return Ok(Step::Unreadable(work.filter_id, error));
            }
        };
        let most = self.most(&work, &query);
        let (changes, is_active) = match look(&mut transaction, &work, &query, most).await {
            Ok(looked) => looked,
            Err(error) => {
                transaction.rollback().await?;
                self.put_back(work.filter_id, most, &error).await?;
                return Ok(Step::Failed(work.filter_id, error));
            }
        };
        transaction.commit().await?;
        let Work { filter_id, name, application_name: application, .. } = work;
        Ok(Step::Looked(Looked { filter_id, name, application, changes, is_active }))
    }

    /// How many endpoints a step goes through.
    fn most(&self, work: &Work, query: &Query) -> i64 {
        let share = if query.has_regex() { REGEX_SHARE } else { 1 };
        let most = self.batch_endpoints / share;
        work.step_endpoints.map_or(most, |endpoints| endpoints.min(most)).max(1)
    }

    /// Gives others their turn after a step that failed, and has the next one go through fewer endpoints if it took too long.
    async fn put_back(&self, filter_id: Uuid, most: i64, error: &sqlx::Error) -> Result<(), sqlx::Error> {
        let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
        // query_canceled, by the statement timeout.
        let fewer = (code.as_deref() == Some("57014")).then_some((most / SLOW_SHARE).max(1));
        sqlx::query(
            "UPDATE endpoint_filters SET worked_at = clock_timestamp(), step_endpoints = coalesce($2, step_endpoints)
             WHERE filter_id = $1",
        )
        .bind(filter_id)
        .bind(fewer)
        .execute(&self.pool)
        .await
        .map(drop)
    }
}

/// Looks at the next endpoints, `most` at most. Returns also whether they were the last.
async fn look(
    connection: &mut PgConnection,
    work: &Work,
    query: &Query,
    most: i64,
) -> Result<(Changes, bool), sqlx::Error> {
    let batch = batch(connection, work, most).await?;
    // When there are fewer than asked for, they were the last.
    let last = if i64::try_from(batch.len()).is_ok_and(|found| found == most) { batch.last() } else { None };
    let candidates = candidates(connection, work, query, &batch).await?;
    let (mut began, mut ceased) = (Pairs::default(), Pairs::default());
    let mut turns = Turns::new();
    for candidate in &candidates {
        turns.pass().await;
        let matches = match &candidate.metadata {
            Some(Json(metadata)) => query.matches(&candidate.app_version_name, metadata),
            None => !candidate.was_matched,
        };
        let pairs = if matches { &mut began } else { &mut ceased };
        pairs.push(work.filter_id, &candidate.endpoint_id);
    }
    let moved = apply(connection, began, ceased, Counter::ManyEndpoints).await?;
    sqlx::query(
        "UPDATE endpoint_filters SET looked_at_created_at = $2, looked_at_endpoint_id = $3,
             worked_at = clock_timestamp(), status = CASE WHEN $4 THEN 'ACTIVE' ELSE status END,
             step_endpoints = CASE WHEN NOT $4 THEN step_endpoints END,
             activated_at = CASE WHEN $4 THEN coalesce(activated_at, clock_timestamp()) ELSE activated_at END
         WHERE filter_id = $1",
    )
    .bind(work.filter_id)
    .bind(last.map(|(created_at, _)| *created_at))
    .bind(last.map(|(_, endpoint_id)| endpoint_id.as_str()))
    .bind(last.is_none())
    .execute(connection)
    .await?;
    let versions: HashMap<&str, &str> = candidates
        .iter()
        .map(|candidate| (candidate.endpoint_id.as_str(), candidate.app_version_name.as_str()))
        .collect();
    // Of a filter that was never active nobody knows an endpoint yet.
    let known = moved.into_iter().filter(|_| work.was_active).map(|moved| Change {
        filter_id: work.filter_id,
        filter_name: work.name.clone(),
        application: work.application_name.clone(),
        app_version: versions.get(moved.endpoint_id.as_str()).copied().unwrap_or_default().to_owned(),
        endpoint_id: moved.endpoint_id,
        matches: moved.matches,
        at_ms: moved.at.timestamp_millis(),
    });
    Ok((Changes(known.collect()), last.is_none()))
}

/// The next endpoints of the application that have not been looked at.
async fn batch(
    connection: &mut PgConnection,
    work: &Work,
    most: i64,
) -> Result<Vec<(DateTime<Utc>, String)>, sqlx::Error> {
    let mut select = QueryBuilder::<Postgres>::new(
        "SELECT created_at, endpoint_id FROM endpoints WHERE registered_at IS NOT NULL AND tenant_id = ",
    );
    select.push_bind(work.tenant_id.clone()).push(" AND application_name = ");
    select.push_bind(work.application_name.clone());
    if let (Some(created_at), Some(endpoint_id)) = (work.looked_at_created_at, &work.looked_at_endpoint_id) {
        select.push(" AND (created_at, endpoint_id) > (").push_bind(created_at).push(", ");
        select.push_bind(endpoint_id.clone()).push(")");
    }
    select.push(" ORDER BY created_at, endpoint_id LIMIT ").push_bind(most);
    select.build_query_as().fetch_all(connection).await
}

/// Endpoints of the batch whose match may have to be added or removed. They stay locked.
///
/// They are selected by their ids: of the two ends of the batch PostgreSQL would think that a good part of the table lies between
/// them, and read all of it.
async fn candidates(
    connection: &mut PgConnection,
    work: &Work,
    query: &Query,
    batch: &[(DateTime<Utc>, String)],
) -> Result<Vec<Candidate>, sqlx::Error> {
    let ids: Vec<String> = batch.iter().map(|(_, endpoint_id)| endpoint_id.clone()).collect();
    let mut select = QueryBuilder::<Postgres>::new("SELECT e.endpoint_id, e.app_version_name, ");
    push_was_matched(&mut select, work.filter_id);
    select.push(" AS was_matched, ").push(if query.has_regex() { "e.metadata" } else { "NULL::jsonb" });
    select.push(" AS metadata FROM endpoints AS e WHERE e.registered_at IS NOT NULL AND e.tenant_id = ");
    select.push_bind(work.tenant_id.clone()).push(" AND e.application_name = ");
    select.push_bind(work.application_name.clone()).push(" AND e.endpoint_id = ANY (").push_bind(ids);
    select.push(") AND CASE WHEN ");
    push_was_matched(&mut select, work.filter_id);
    select.push(" THEN NOT (");
    sql::push(&mut select, query, Bound::OnlyWhatMatches);
    select.push(") ELSE (");
    sql::push(&mut select, query, Bound::AllThatMatch);
    // In one order, so that nobody waits in a circle. Not weaker: a writer of one of these endpoints must wait, or have
    // finished.
    select.push(") END ORDER BY e.endpoint_id FOR SHARE OF e");
    select.build_query_as().persistent(false).fetch_all(connection).await
}

/// Not by EXISTS: of that, PostgreSQL may make a hash of all matches of the filter, for each batch anew.
fn push_was_matched(select: &mut QueryBuilder<Postgres>, filter_id: Uuid) {
    select.push(
        "(SELECT true FROM endpoint_filter_matches AS matched WHERE matched.endpoint_id = e.endpoint_id",
    );
    select.push(" AND matched.filter_id = ").push_bind(filter_id).push(") IS NOT NULL");
}

/// Removes some matches of a deleted filter, and once there are none, the filter.
async fn remove(connection: &mut PgConnection, filter_id: Uuid) -> Result<(), sqlx::Error> {
    let removed = sqlx::query(
        "DELETE FROM endpoint_filter_matches WHERE filter_id = $1 AND endpoint_id IN (
             SELECT endpoint_id FROM endpoint_filter_matches WHERE filter_id = $1 ORDER BY endpoint_id LIMIT $2
         )",
    );
    let removed =
        removed.bind(filter_id).bind(REMOVED_AT_ONCE).execute(&mut *connection).await?.rows_affected();
    let finish = if removed == 0 {
        sqlx::query(
            "WITH counts AS (DELETE FROM endpoint_filter_counts WHERE filter_id = $1)
             DELETE FROM endpoint_filters WHERE filter_id = $1",
        )
    } else {
        sqlx::query("UPDATE endpoint_filters SET worked_at = clock_timestamp() WHERE filter_id = $1")
    };
    finish.bind(filter_id).execute(connection).await.map(drop)
}
