//! Filters and changing endpoints, side by side, on a real PostgreSQL.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ids::{AppVersionName, ApplicationName, EndpointId, TenantId};
use serde_json::{Map, Value, json};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool};
use testkit::Database;
use uuid::Uuid;

use super::definition::{FilterPatch, MongoQuery, NewFilter, Status};
use super::events::Changes;
use super::matching::{Step, Steps};
use super::store::FilterStore;
use super::{Error, reevaluate, unregister};
use crate::domain::EndpointSnapshot;
use crate::store::MIGRATOR;

const BATCH: i64 = 7;
/// How many transactions wait for a lock.
const WAITING: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";

struct Bed {
    database: Database,
    pool: PgPool,
    store: FilterStore,
    steps: Steps,
    tenant: TenantId,
    application: ApplicationName,
}

impl Bed {
    async fn new() -> Self {
        let database = testkit::database().await;
        let pool = PgPoolOptions::new().max_connections(24).connect(&database.url).await.unwrap();
        MIGRATOR.run(&pool).await.unwrap();
        Self {
            database,
            store: FilterStore::new(pool.clone()),
            steps: Steps { pool: pool.clone(), batch_endpoints: BATCH },
            pool,
            tenant: TenantId::parse("acme").unwrap(),
            application: ApplicationName::parse("app").unwrap(),
        }
    }

    async fn endpoint(&self, id: &str, metadata: &Value) -> Changes {
        let mut transaction = self.pool.begin().await.unwrap();
        sqlx::query(
            "INSERT INTO endpoints (endpoint_id, tenant_id, application_name, app_version_name, app_version_registered_at,
                 metadata, created_at, registered_at, registration_id, reserved_until)
             VALUES ($1, 'acme', 'app', 'app-v1', now(), $2, now(), now(), gen_random_uuid(), now())",
        )
        .bind(id)
        .bind(Json(metadata))
        .execute(&mut *transaction)
        .await
        .unwrap();
        let changes = self.reevaluate(&mut transaction, id, metadata).await.unwrap();
        transaction.commit().await.unwrap();
        changes
    }

    async fn endpoints(&self, count: usize, metadata: impl Fn(usize) -> Value) {
        for number in 0..count {
            drop(self.endpoint(&format!("e{number}"), &metadata(number)).await);
        }
    }

    async fn reevaluate(
        &self,
        connection: &mut PgConnection,
        id: &str,
        metadata: &Value,
    ) -> Result<Changes, sqlx::Error> {
        let (endpoint_id, app_version) =
            (EndpointId::parse(id).unwrap(), AppVersionName::parse("app-v1").unwrap());
        let Bed { tenant, application, .. } = self;
        let metadata: &Map<String, Value> = metadata.as_object().unwrap();
        let (endpoint_id, app_version) = (&endpoint_id, &app_version);
        reevaluate(connection, &EndpointSnapshot { endpoint_id, tenant, application, app_version, metadata })
            .await
    }

    /// What a writer does: lock, write, evaluate.
    async fn write(
        &self,
        connection: &mut PgConnection,
        id: &str,
        metadata: &Value,
    ) -> Result<Changes, sqlx::Error> {
        sqlx::query("SELECT FROM endpoints WHERE endpoint_id = $1 FOR UPDATE")
            .bind(id)
            .execute(&mut *connection)
            .await?;
        sqlx::query("UPDATE endpoints SET metadata = $2 WHERE endpoint_id = $1")
            .bind(id)
            .bind(Json(metadata))
            .execute(&mut *connection)
            .await?;
        self.reevaluate(connection, id, metadata).await
    }

    async fn set(&self, id: &str, metadata: &Value) -> Changes {
        let mut transaction = self.pool.begin().await.unwrap();
        let changes = self.write(&mut transaction, id, metadata).await.unwrap();
        transaction.commit().await.unwrap();
        changes
    }

    async fn create(&self, name: &str, query: &Value) -> Uuid {
        let new = NewFilter { name: name.to_owned(), description: None, mongo_query: sent(query) };
        self.store.create(&self.tenant, &self.application, &new, 100).await.unwrap().id
    }

    async fn change(&self, filter_id: Uuid, patch: FilterPatch) -> bool {
        let any = rest::IfMatch::default();
        let updated = self.store.update(&self.tenant, &self.application, filter_id, patch, &any).await;
        updated.unwrap().is_matched_anew
    }

    async fn requery(&self, filter_id: Uuid, query: &Value) {
        assert!(
            self.change(filter_id, FilterPatch { mongo_query: Some(sent(query)), ..FilterPatch::default() })
                .await
        );
    }

    /// Takes steps until there is nothing to do. Returns what others are told, as `+id` and `-id`.
    async fn settle(&self) -> Vec<String> {
        let mut told = Vec::new();
        loop {
            match self.steps.next(&[]).await.unwrap() {
                Step::Nothing => return told,
                Step::Looked(looked) => told.extend(spelled(&looked.changes)),
                Step::Removed => {}
                Step::Unreadable(filter_id, error) => panic!("{filter_id}: {error}"),
                Step::Failed(filter_id, error) => panic!("{filter_id}: {error}"),
            }
        }
    }

    async fn status(&self, filter_id: Uuid) -> (Status, i64) {
        let filter = self.store.filter(&self.tenant, &self.application, filter_id).await.unwrap();
        (filter.status, filter.matched_endpoints_count)
    }

    async fn matched(&self, filter_id: Uuid) -> Vec<String> {
        let select = "SELECT endpoint_id FROM endpoint_filter_matches WHERE filter_id = $1 ORDER BY 1";
        sqlx::query_scalar(select).bind(filter_id).fetch_all(&self.pool).await.unwrap()
    }

    /// The filter is active, its matches are those that a look at all endpoints finds, and so is their number.
    async fn assert_exact(&self, filter_id: Uuid) {
        let filter = self.store.filter(&self.tenant, &self.application, filter_id).await.unwrap();
        let query = filter.mongo_query.parse().unwrap();
        let rows: Vec<(String, Json<Map<String, Value>>)> = sqlx::query_as(
            "SELECT endpoint_id, metadata FROM endpoints WHERE registered_at IS NOT NULL ORDER BY 1",
        )
        .fetch_all(&self.pool)
        .await
        .unwrap();
        let matching = rows.into_iter().filter(|(_, metadata)| query.matches("app-v1", metadata));
        let expected: Vec<String> = matching.map(|(id, _)| id).collect();
        assert_eq!(self.matched(filter_id).await, expected);
        let count = i64::try_from(expected.len()).unwrap();
        assert_eq!((filter.status, filter.matched_endpoints_count), (Status::Active, count));
    }
}

fn sent(query: &Value) -> MongoQuery {
    MongoQuery::stored(query.to_string()).unwrap()
}

fn value(condition: Value) -> Value {
    json!({"metadata": {"$elemMatch": {"key": "n", "value": condition}}})
}

fn spelled(changes: &Changes) -> Vec<String> {
    let spell = |matches: bool, id: &str| format!("{}{id}", if matches { '+' } else { '-' });
    changes.0.iter().map(|change| spell(change.matches, &change.endpoint_id)).collect()
}

#[tokio::test]
async fn a_filter_becomes_active_in_steps_and_follows_each_change() {
    let bed = Bed::new().await;
    bed.endpoints(20, |number| json!({"n": number})).await;
    let filter = bed.create("f", &value(json!({"$gte": 10}))).await;
    assert_eq!(bed.status(filter).await, (Status::Pending, 0));
    assert!(matches!(bed.steps.next(&[]).await.unwrap(), Step::Looked(looked) if !looked.is_active));
    // A change is followed while the filter is PENDING, whether or not the endpoint has been looked at.
    assert_eq!(spelled(&bed.set("e0", &json!({"n": 10})).await), ["+e0"]);
    assert_eq!(spelled(&bed.set("e19", &json!({"n": 0})).await), Vec::<String>::new());
    assert!(bed.settle().await.is_empty(), "of the first matching only the end is told");
    bed.assert_exact(filter).await;
    assert_eq!(bed.status(filter).await, (Status::Active, 10));
    assert_eq!(spelled(&bed.set("e0", &json!({})).await), ["-e0"]);
    assert_eq!(spelled(&bed.set("e0", &json!({})).await), Vec::<String>::new());
    assert_eq!(spelled(&bed.endpoint("new", &json!({"n": 99})).await), ["+new"]);
    bed.assert_exact(filter).await;
}

#[tokio::test]
async fn an_endpoint_that_goes_leaves_all_filters() {
    let bed = Bed::new().await;
    bed.endpoints(3, |_| json!({"n": 1})).await;
    let (one, other) = (bed.create("one", &value(json!(1))).await, bed.create("other", &json!({})).await);
    bed.settle().await;
    let mut transaction = bed.pool.begin().await.unwrap();
    sqlx::query("UPDATE endpoints SET registered_at = NULL WHERE endpoint_id = 'e1'")
        .execute(&mut *transaction)
        .await
        .unwrap();
    let changes = unregister(&mut transaction, &EndpointId::parse("e1").unwrap()).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(spelled(&changes), ["-e1", "-e1"]);
    assert!(changes.0.iter().all(|change| change.application == "app" && change.app_version == "app-v1"));
    bed.assert_exact(one).await;
    bed.assert_exact(other).await;
}

#[tokio::test]
async fn another_query_is_matched_anew_and_the_difference_told() {
    let bed = Bed::new().await;
    bed.endpoints(20, |number| json!({"n": number})).await;
    let filter = bed.create("f", &value(json!({"$lt": 3}))).await;
    bed.settle().await;
    bed.requery(filter, &value(json!({"$gte": 1, "$lt": 5}))).await;
    assert_eq!(bed.status(filter).await.0, Status::Pending);
    let mut told = bed.settle().await;
    told.sort();
    assert_eq!(told, ["+e3", "+e4", "-e0"]);
    bed.assert_exact(filter).await;
    // With a regular expression SQL cannot tell exactly.
    bed.requery(
        filter,
        &json!({"$nor": [{"metadata": {"$elemMatch": {"key": {"$regex": "^n$"}, "value": {"$ne": 7}}}}]}),
    )
    .await;
    let mut told = bed.settle().await;
    told.sort();
    assert_eq!(told, ["+e7", "-e1", "-e2", "-e3", "-e4"]);
    bed.assert_exact(filter).await;
    // The same query in other words, or another name: nothing to look at.
    let same = MongoQuery::stored(format!(" {} ", json!(bed_query(&bed, filter).await))).unwrap();
    assert!(!bed.change(filter, FilterPatch { mongo_query: Some(same), ..FilterPatch::default() }).await);
    let name = FilterPatch { name: Some("g".to_owned()), ..FilterPatch::default() };
    assert!(!bed.change(filter, name).await);
    bed.assert_exact(filter).await;
}

async fn bed_query(bed: &Bed, filter_id: Uuid) -> String {
    let filter = bed.store.filter(&bed.tenant, &bed.application, filter_id).await.unwrap();
    filter.mongo_query.as_sent().to_owned()
}

#[tokio::test]
async fn a_deleted_filter_is_gone_at_once_and_its_rows_soon() {
    let bed = Bed::new().await;
    bed.endpoints(5, |number| json!({"n": number})).await;
    let filter = bed.create("f", &json!({})).await;
    bed.settle().await;
    let any = rest::IfMatch::default();
    bed.store.delete(&bed.tenant, &bed.application, filter, &any).await.unwrap();
    let again = bed.store.delete(&bed.tenant, &bed.application, filter, &any).await;
    assert!(matches!(again, Err(Error::UnknownFilter(_))));
    assert!(matches!(bed.store.active(&bed.tenant, &filter.to_string()).await, Err(Error::UnknownFilter(_))));
    assert!(bed.store.filters_of(&["e0".to_owned()]).await.unwrap().is_empty());
    assert!(spelled(&bed.set("e0", &json!({"n": 99})).await).is_empty());
    // The name is free while the rows still go.
    let namesake = bed.create("f", &json!({})).await;
    bed.settle().await;
    assert!(bed.matched(filter).await.is_empty());
    bed.assert_exact(namesake).await;
    bed.store.delete(&bed.tenant, &bed.application, namesake, &any).await.unwrap();
    bed.settle().await;
    let sets = sqlx::query_scalar("SELECT count(*) FROM endpoint_filter_sets");
    assert_eq!(sets.fetch_one(&bed.pool).await.ok(), Some(0_i64), "the last filter leaves nothing behind");
    for table in ["endpoint_filters", "endpoint_filter_counts"] {
        let sql = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table} WHERE filter_id = $1"));
        let rows: i64 = sqlx::query_scalar(sql).bind(filter).fetch_one(&bed.pool).await.unwrap();
        assert_eq!(rows, 0, "{table}");
    }
}

/// A writer that began before the filter and commits after it.
#[tokio::test]
async fn a_filter_waits_for_writers_that_do_not_know_it() {
    let bed = Arc::new(Bed::new().await);
    bed.endpoints(1, |_| json!({"n": 0})).await;
    let mut transaction = bed.pool.begin().await.unwrap();
    assert!(bed.write(&mut transaction, "e0", &json!({"n": 1})).await.unwrap().0.is_empty());
    let creating = tokio::spawn({
        let bed = bed.clone();
        async move { bed.create("f", &value(json!(1))).await }
    });
    let waits = async || {
        let waiting: i64 = sqlx::query_scalar(WAITING).fetch_one(&bed.pool).await.unwrap();
        (waiting == 1).then_some(())
    };
    testkit::eventually("the filter to wait", testbed::PATIENCE, waits).await;
    transaction.commit().await.unwrap();
    let filter = creating.await.unwrap();
    bed.settle().await;
    bed.assert_exact(filter).await;
    assert_eq!(bed.matched(filter).await, ["e0"]);
}

/// A step reads an endpoint as it was, while a writer has it in hand.
#[tokio::test]
async fn a_step_judges_an_endpoint_as_it_is_after_its_writer() {
    let bed = Arc::new(Bed::new().await);
    bed.endpoints(1, |_| json!({"n": 1})).await;
    for (was, becomes, query) in [
        (json!({"n": 1}), json!({"n": 2}), value(json!(1))),
        (json!({"n": 1}), json!({"n": 1, "m": 1}), value(json!(1))),
        (json!({"n": 1}), json!({"n": 1, "m": 1}), value(json!({"$regex": "1"}))),
        (json!({"n": "1"}), json!({"n": "2"}), value(json!({"$regex": "1"}))),
        (json!({"n": "2"}), json!({"n": "1"}), value(json!({"$regex": "1"}))),
        (json!({"n": 2}), json!({"n": 1}), value(json!(1))),
    ] {
        drop(bed.set("e0", &was).await);
        let filter = bed.create(&Uuid::new_v4().to_string(), &query).await;
        let mut transaction = bed.pool.begin().await.unwrap();
        drop(bed.write(&mut transaction, "e0", &becomes).await.unwrap());
        let stepping = tokio::spawn({
            let bed = bed.clone();
            async move { bed.settle().await }
        });
        // It waits for the row, or has finished without touching it.
        let waits = async || {
            let waiting: i64 = sqlx::query_scalar(WAITING).fetch_one(&bed.pool).await.unwrap();
            (waiting > 0 || stepping.is_finished()).then_some(())
        };
        testkit::eventually("the step to wait", testbed::PATIENCE, waits).await;
        transaction.commit().await.unwrap();
        stepping.await.unwrap();
        bed.assert_exact(filter).await;
    }
}

#[tokio::test]
async fn nothing_is_lost_while_all_changes_at_once() {
    const ENDPOINTS: usize = 60;
    const WRITERS: usize = 8;
    const ROUNDS: usize = 40;
    let bed = Arc::new(Bed::new().await);
    bed.endpoints(ENDPOINTS, |number| json!({"n": number % 5})).await;
    let steady = bed.create("steady", &value(json!({"$gte": 2}))).await;
    let changed = bed.create("changed", &value(json!(0))).await;
    let finished = Arc::new(AtomicUsize::new(0));
    let mut tasks = Vec::new();
    for writer in 0..WRITERS {
        let (bed, finished) = (bed.clone(), finished.clone());
        tasks.push(tokio::spawn(async move {
            for round in 0..ROUNDS {
                let id = format!("e{}", (writer * 7 + round * 13) % ENDPOINTS);
                drop(bed.set(&id, &json!({"n": (writer + round) % 5})).await);
                if round % 10 == 0 {
                    drop(bed.endpoint(&format!("w{writer}-{round}"), &json!({"n": round % 5})).await);
                }
            }
            finished.fetch_add(1, Ordering::SeqCst);
        }));
    }
    // Two replicas that step, and somebody who changes the query and makes new filters.
    for _ in 0..2 {
        let (bed, finished) = (bed.clone(), finished.clone());
        tasks.push(tokio::spawn(async move {
            while finished.load(Ordering::SeqCst) < WRITERS {
                bed.settle().await;
                tokio::task::yield_now().await;
            }
        }));
    }
    let mut filters = vec![steady, changed];
    let mut round = 0;
    while finished.load(Ordering::SeqCst) < WRITERS {
        round += 1;
        let query = if round % 2 == 0 { json!({"$in": [0, 3]}) } else { json!({"$not": {"$gt": 1}}) };
        bed.requery(changed, &value(query)).await;
        if round <= 10 {
            filters.push(
                bed.create(&format!("late {round}"), &value(json!({"$type": "number", "$ne": round % 5})))
                    .await,
            );
        }
    }
    for task in tasks {
        task.await.unwrap();
    }
    bed.settle().await;
    for filter in filters {
        bed.assert_exact(filter).await;
    }
}

/// A filter whose steps take longer than the database allows, here because somebody keeps an endpoint locked.
#[tokio::test]
async fn a_filter_that_takes_too_long_holds_up_no_other_and_goes_on_in_shorter_steps() {
    let bed = Bed::new().await;
    bed.endpoints(20, |number| json!({"n": number})).await;
    let slow = bed.create("slow", &json!({})).await;
    let quick = bed.create("quick", &value(json!(19))).await;
    let mut holder = bed.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM endpoints WHERE endpoint_id = 'e0' FOR UPDATE")
        .execute(&mut *holder)
        .await
        .unwrap();
    let impatient = bed.database.url.parse::<PgConnectOptions>().unwrap();
    let impatient = impatient.options([("statement_timeout", "200ms")]);
    let steps =
        Steps { pool: PgPoolOptions::new().connect_with(impatient).await.unwrap(), batch_endpoints: 20 };
    assert!(matches!(steps.next(&[]).await.unwrap(), Step::Failed(filter_id, _) if filter_id == slow));
    while bed.status(quick).await.0 == Status::Pending {
        assert!(matches!(steps.next(&[slow]).await.unwrap(), Step::Looked(_)));
    }
    let size = sqlx::query_scalar("SELECT step_endpoints FROM endpoint_filters WHERE filter_id = $1");
    assert_eq!(size.bind(slow).fetch_one(&bed.pool).await.ok(), Some(2_i64));
    holder.rollback().await.unwrap();
    bed.settle().await;
    bed.assert_exact(slow).await;
    bed.assert_exact(quick).await;
}

#[tokio::test]
async fn names_and_numbers_of_filters_are_limited() {
    let bed = Bed::new().await;
    let filter = bed.create("f", &json!({})).await;
    let new =
        |name: &str| NewFilter { name: name.to_owned(), description: None, mongo_query: sent(&json!({})) };
    let create =
        async |name: &str, max| bed.store.create(&bed.tenant, &bed.application, &new(name), max).await;
    assert!(matches!(create("f", 9).await, Err(Error::NameTaken(name)) if name == "f"));
    assert!(matches!(create("g", 1).await, Err(Error::TooMany { max: 1 })));
    create("g", 2).await.unwrap();
    let patch = FilterPatch { name: Some("g".to_owned()), ..FilterPatch::default() };
    let any = rest::IfMatch::default();
    let updated = bed.store.update(&bed.tenant, &bed.application, filter, patch, &any).await;
    assert!(matches!(updated, Err(Error::NameTaken(_))));
    // Filters are their tenant's and their application's.
    let elsewhere = ApplicationName::parse("more").unwrap();
    let found = bed.store.filter(&bed.tenant, &elsewhere, filter).await;
    assert!(matches!(found, Err(Error::UnknownFilter(_))));
    let other = TenantId::parse("other").unwrap();
    assert!(matches!(bed.store.active(&other, &filter.to_string()).await, Err(Error::UnknownFilter(_))));
    assert!(matches!(bed.store.active(&bed.tenant, "x").await, Err(Error::UnknownFilter(_))));
    assert!(matches!(bed.store.active(&bed.tenant, &filter.to_string()).await, Err(Error::Pending(_))));
}
