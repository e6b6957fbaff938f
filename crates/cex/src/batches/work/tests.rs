use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use ids::CorrelationId;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use testkit::Database;
use uuid::Uuid;

use super::*;
use crate::batches::read::{Child, Order, Selection, Sort, Task};
use crate::batches::store::{Entered, NewRow};
use crate::batches::{NewBatch, Targets};
use crate::changes::Changes;
use crate::domain::{NewResult, State};
use crate::ledger::MIGRATOR;

struct Bed {
    pool: PgPool,
    ledger: Ledger,
    store: Store,
    config: Arc<Config>,
    _database: Database,
}

fn tenant(name: &str) -> TenantId {
    TenantId::parse(name).unwrap()
}

fn meter() -> ApplicationName {
    ApplicationName::parse("meter").unwrap()
}

fn endpoints(count: usize) -> Vec<EndpointId> {
    (0..count).map(|number| EndpointId::parse(&format!("e{number:05}")).unwrap()).collect()
}

fn reboot() -> NewBatch {
    NewBatch {
        tenant: tenant("acme"),
        applications: None,
        command_type: CommandType::parse("reboot").unwrap(),
        targets: Targets::Filter("floor-3".to_owned()),
        payload: Some(Payload::Json(Bytes::from_static(b"{\"delay\":5}"))),
        ttl: Ttl::For(Duration::from_secs(600)),
        rate_per_second: None,
        abort_failed_percent: None,
        idempotency: None,
        response_topic: None,
        correlation_id: CorrelationId::parse("test").unwrap(),
    }
}

impl Bed {
    async fn new(config: Config) -> Self {
        let database = testkit::database().await;
        let pool = PgPoolOptions::new().max_connections(16).connect(&database.url).await.unwrap();
        MIGRATOR.run(&pool).await.unwrap();
        let config = Arc::new(config);
        let ledger = Ledger::new(pool.clone(), config.clone(), Arc::new(Changes::default()));
        Self { ledger, store: Store::new(pool.clone()), config, pool, _database: database }
    }

    fn work(&self) -> Work {
        let metrics = Arc::new(Metrics::new());
        Work::new(self.store.clone(), self.ledger.clone(), self.config.clone(), metrics)
    }

    async fn enter(&self, new: &NewBatch, endpoints: &[EndpointId]) -> Uuid {
        let application = meter();
        let row = NewRow::new(new, &application).unwrap();
        match self.store.enter(&row, endpoints, 10).await.unwrap() {
            Entered::New(task_id) => task_id,
            other => panic!("{other:?}"),
        }
    }

    /// One step of a worker that lives on.
    async fn step(&self, work: &Work) -> bool {
        work.step(async |commands| Ok(self.ledger.invoke(commands, false).await?)).await.unwrap()
    }

    /// One step of a worker that is killed when it has invoked and not yet noted that.
    async fn killed_step(&self, work: &Work) {
        let killed = work.step(async |commands| {
            self.ledger.invoke(commands, false).await?;
            Err(Error::Database(sqlx::Error::WorkerCrashed))
        });
        assert!(killed.await.is_err());
        self.all_due().await;
    }

    async fn all_due(&self) {
        sqlx::query("UPDATE batches SET due_at = now()").execute(&self.pool).await.unwrap();
    }

    async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.unwrap()
    }

    async fn tasks(&self, tenant: &TenantId, sort: Sort, order: Order) -> Vec<Task> {
        let selection = Selection { command_type: None, filter_id: None, sort, order, offset: 0, limit: 100 };
        let connection = &mut self.pool.acquire().await.unwrap();
        self.store.tasks(connection, tenant, &meter(), &selection, None).await.unwrap()
    }

    async fn children(&self, batch: BatchKey, offset: i64, limit: i64) -> Vec<Child> {
        let connection = &mut self.pool.acquire().await.unwrap();
        self.store.children(connection, batch, offset, limit).await.unwrap()
    }

    async fn only_task(&self) -> Task {
        let mut tasks = self.tasks(&tenant("acme"), Sort::CreatedAt, Order::Descending).await;
        assert_eq!(tasks.len(), 1);
        tasks.remove(0)
    }

    /// The devices report results with this status.
    async fn report(&self, endpoints: &[EndpointId], status_code: i32) {
        for endpoint_id in endpoints {
            let lane = Lane {
                tenant: tenant("acme"),
                endpoint_id: endpoint_id.clone(),
                command_type: reboot().command_type,
            };
            let result = NewResult { command_id: 1, status_code, reason_phrase: None, payload: None };
            self.ledger.results(&lane, vec![result]).await.unwrap();
        }
    }
}

fn counts(task: &Task) -> (i64, i64, i64, i64) {
    assert_eq!(task.pending + task.executed + task.expired, task.total);
    (task.pending, task.executed, task.expired, task.not_invoked)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_endpoints_are_commanded_once_each_by_whoever_survives() {
    let bed = Bed::new(Config::default()).await;
    bed.enter(&reboot(), &endpoints(10_000)).await;
    assert_eq!(counts(&bed.only_task().await), (10_000, 0, 0, 10_000));
    let (one, other) = (bed.work(), bed.work());
    for _ in 0..3 {
        bed.killed_step(&one).await;
        assert_eq!(counts(&bed.only_task().await).0, 10_000);
        bed.step(&one).await;
    }
    let parts = AtomicU32::new(0);
    let work = async |work: &Work| {
        while bed.count("SELECT count(*) FROM batch_targets").await > 0 {
            if bed.step(work).await {
                parts.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    tokio::join!(work(&one), work(&other));
    assert!(parts.load(Ordering::Relaxed) >= 17);
    let commanded = bed.count("SELECT count(DISTINCT endpoint_id) FROM commands WHERE command_id = 1");
    assert_eq!((commanded.await, bed.count("SELECT count(*) FROM commands").await), (10_000, 10_000));
    assert_eq!(counts(&bed.only_task().await), (10_000, 0, 0, 0));

    bed.report(&endpoints(3), 200).await;
    sqlx::query("UPDATE commands SET expires_at = now()").execute(&bed.pool).await.unwrap();
    while bed.ledger.end(1_000).await.unwrap() > 0 {}
    bed.all_due().await;
    assert!(bed.step(&one).await);
    let task = bed.only_task().await;
    assert_eq!((task.state, counts(&task)), (BatchState::Completed, (0, 3, 9_997, 0)));
    assert!(task.ended_at.is_some());
    // Its counts stay when its commands are gone, and nobody works on it any more.
    sqlx::query("DELETE FROM commands").execute(&bed.pool).await.unwrap();
    assert_eq!(counts(&bed.only_task().await), (0, 3, 9_997, 0));
    bed.all_due().await;
    assert!(!bed.step(&other).await);
}

#[tokio::test]
async fn a_batch_is_aborted_when_too_many_have_failed() {
    let bed = Bed::new(Config { batch_part_max: 25, ..Config::default() }).await;
    bed.enter(&NewBatch { abort_failed_percent: Some(50), ..reboot() }, &endpoints(40)).await;
    let work = bed.work();
    assert!(bed.step(&work).await);
    bed.report(&endpoints(25)[..9], 200).await;
    bed.report(&endpoints(25)[9..19], 500).await;
    bed.all_due().await;
    assert!(work.abort_reason_of(&bed).await.is_none(), "19 are too few to say");
    bed.report(&endpoints(25)[19..20], 404).await;
    assert!(bed.step(&work).await);
    let task = bed.only_task().await;
    assert_eq!((task.state, counts(&task)), (BatchState::Aborted, (0, 20, 20, 15)));
    let reason = task.reason.unwrap();
    assert!(reason.starts_with("11 of the 20 commands that ended have failed: 55 %"), "{reason}");
    let children = bed.children(task.key, 0, 100).await;
    assert_eq!(children.len(), 40);
    let cancelled = children.iter().filter(|child| child.command == Some((1, State::Cancelled))).count();
    let dropped = children.iter().filter(|child| child.reason.as_ref() == Some(&reason)).count();
    assert_eq!((cancelled, dropped), (5, 15));
}

impl Work {
    async fn abort_reason_of(&self, bed: &Bed) -> Option<String> {
        let mut connection = bed.pool.acquire().await.unwrap();
        let key = BatchKey(bed.count("SELECT batch_key FROM batches").await);
        let batch = Batch {
            key,
            tenant: tenant("acme"),
            application: meter(),
            command_type: reboot().command_type,
            payload: None,
            ttl: Ttl::Once,
            rate_per_second: None,
            abort_failed_percent: Some(50),
            state: BatchState::Running,
            reason: None,
            response_topic: None,
            age: Duration::ZERO,
        };
        self.abort_reason(&mut connection, &batch).await.unwrap()
    }
}

#[tokio::test]
async fn what_is_delivered_outlives_the_cancellation_of_its_batch() {
    let bed = Bed::new(Config { batch_part_max: 3, ..Config::default() }).await;
    let task_id = bed.enter(&reboot(), &endpoints(5)).await;
    let work = bed.work();
    assert!(bed.step(&work).await);
    let delivered = "UPDATE commands SET state = 'DELIVERED' WHERE endpoint_id = 'e00001'";
    sqlx::query(delivered).execute(&bed.pool).await.unwrap();
    let cancel =
        async |tenant: &TenantId| bed.store.cancel(tenant, &meter(), task_id, "no more").await.unwrap();
    assert_eq!(cancel(&tenant("other")).await, None, "a batch of another tenant");
    // The process is killed here: the commands themselves are left to a worker.
    assert!(cancel(&tenant("acme")).await.is_some());
    assert_eq!(cancel(&tenant("acme")).await, None);
    assert_eq!(counts(&bed.only_task().await), (3, 0, 2, 2));
    assert!(bed.step(&work).await);
    let task = bed.only_task().await;
    assert_eq!((task.state, counts(&task)), (BatchState::Cancelled, (1, 0, 4, 2)));
    assert_eq!(task.ended_at, None);
    bed.report(&endpoints(2)[1..], 200).await;
    bed.all_due().await;
    assert!(bed.step(&work).await);
    let task = bed.only_task().await;
    assert_eq!((task.state, counts(&task)), (BatchState::Cancelled, (0, 1, 4, 2)));
    assert!(task.ended_at.is_some());
}

#[tokio::test]
async fn a_batch_of_which_all_has_ended_is_not_cancelled() {
    let bed = Bed::new(Config::default()).await;
    let task_id = bed.enter(&reboot(), &endpoints(2)).await;
    assert!(bed.step(&bed.work()).await);
    bed.report(&endpoints(2), 200).await;
    // The worker has not looked since.
    let ended = bed.store.cancel(&tenant("acme"), &meter(), task_id, "no more").await.unwrap();
    assert_eq!(ended.unwrap().1, BatchState::Completed);
    let task = bed.only_task().await;
    assert_eq!((task.state, counts(&task), task.reason), (BatchState::Completed, (0, 2, 0, 0), None));
    let last =
        bed.count("SELECT count(*) FROM batches WHERE ended_at = (SELECT max(updated_at) FROM commands)");
    assert_eq!(last.await, 1, "it ended with its last command");
}

#[tokio::test]
async fn nothing_is_invoked_on_an_endpoint_that_was_deleted_meanwhile() {
    let bed = Bed::new(Config { batch_part_max: 2, ..Config::default() }).await;
    bed.enter(&reboot(), &endpoints(4)).await;
    let work = bed.work();
    assert!(bed.step(&work).await);
    for gone in &endpoints(3)[1..] {
        bed.store.forget_endpoint(gone, "it is gone").await.unwrap();
    }
    bed.all_due().await;
    assert!(bed.step(&work).await);
    let task = bed.only_task().await;
    assert_eq!(counts(&task), (3, 0, 1, 1));
    let children = bed.children(task.key, 0, 10).await;
    let commanded: Vec<bool> = children.iter().map(|child| child.command.is_some()).collect();
    assert_eq!(commanded, [true, true, false, true], "what was invoked before is the ledger's");
    assert_eq!(children[2].reason.as_deref(), Some("it is gone"));
}

#[tokio::test]
async fn a_rate_is_kept_on_average() {
    let bed = Bed::new(Config::default()).await;
    bed.enter(&NewBatch { rate_per_second: Some(8), ..reboot() }, &endpoints(8)).await;
    let work = bed.work();
    let mut before = 0;
    testkit::eventually("all commands", Duration::from_secs(20), async || {
        bed.step(&work).await;
        let invoked = bed.count("SELECT count(*) FROM commands").await;
        assert!(invoked - before <= 2, "{before} and {invoked}");
        before = invoked;
        (invoked == 8).then_some(())
    })
    .await;
    // A quarter of a second for each two of them, and more if the machine was slow.
    let took = "SELECT (1000 * extract(epoch FROM due_at - created_at))::bigint FROM batches";
    assert!(bed.count(took).await >= 999);
}

#[tokio::test]
async fn one_key_is_one_batch() {
    let bed = Bed::new(Config::default()).await;
    let key = |digest| Some(Idempotency { key: "rest:order-7".to_owned(), digest: [digest; 32] });
    let new = NewBatch { idempotency: key(1), ..reboot() };
    let application = meter();
    let row = NewRow::new(&new, &application).unwrap();
    let endpoints = endpoints(3);
    let (one, other) =
        tokio::join!(bed.store.enter(&row, &endpoints, 10), bed.store.enter(&row, &endpoints, 10));
    let (task_id, repeated) = match (one.unwrap(), other.unwrap()) {
        (Entered::New(task_id), Entered::Repeated(found))
        | (Entered::Repeated(found), Entered::New(task_id)) => (task_id, found),
        others => panic!("{others:?}"),
    };
    assert_eq!(repeated, (task_id, meter()));
    assert_eq!(bed.count("SELECT count(*) FROM batch_targets").await, 3);
    let find = async |name: &str, digest| bed.store.find(&tenant(name), &key(digest).unwrap()).await;
    assert_eq!(find("acme", 1).await.unwrap(), Some((task_id, meter())));
    assert_eq!(find("other", 1).await.unwrap(), None);
    assert!(matches!(find("acme", 2).await, Err(Error::KeyReused)));
    let row = NewRow::new(&new, &application).unwrap();
    assert!(matches!(bed.store.enter(&row, &endpoints, 1).await.unwrap(), Entered::TooMany(1)));
}

#[tokio::test]
async fn an_endpoint_that_takes_no_more_commands_is_told_with_the_reason() {
    let bed = Bed::new(Config { outstanding_per_endpoint_max: 1, ..Config::default() }).await;
    bed.enter(&reboot(), &endpoints(1)).await;
    let work = bed.work();
    assert!(bed.step(&work).await);
    bed.enter(&reboot(), &endpoints(2)).await;
    bed.all_due().await;
    while bed.step(&work).await {}
    let tasks = bed.tasks(&tenant("acme"), Sort::CreatedAt, Order::Ascending).await;
    assert_eq!((counts(&tasks[0]), counts(&tasks[1])), ((1, 0, 0, 0), (1, 0, 1, 1)));
    let children = bed.children(tasks[1].key, 0, 10).await;
    assert!(children[0].reason.as_ref().unwrap().contains("cex.outstanding_per_endpoint_max"));
    assert_eq!(children[1].command, Some((1, State::Created)));
    assert_eq!(bed.children(tasks[1].key, 1, 1).await[0].endpoint_id, "e00001");
}

#[tokio::test]
async fn tasks_are_listed_by_tenant_in_the_order_asked_for() {
    let bed = Bed::new(Config::default()).await;
    for name in ["b", "a", "c"] {
        let new = NewBatch { targets: Targets::Filter(name.to_owned()), ..reboot() };
        bed.enter(&new, &endpoints(1)).await;
    }
    bed.enter(&NewBatch { tenant: tenant("other"), ..reboot() }, &endpoints(1)).await;
    let filters = async |sort, order| {
        let tasks = bed.tasks(&tenant("acme"), sort, order).await;
        tasks.iter().filter_map(|task| task.filter_id.clone()).collect::<String>()
    };
    assert_eq!(filters(Sort::CreatedAt, Order::Ascending).await, "bac");
    assert_eq!(filters(Sort::CreatedAt, Order::Descending).await, "cab");
    assert_eq!(filters(Sort::FilterId, Order::Descending).await, "cba");
    assert_eq!(bed.tasks(&tenant("other"), Sort::TaskId, Order::Ascending).await.len(), 1);
    let selection = Selection {
        command_type: Some(reboot().command_type),
        filter_id: Some("c".to_owned()),
        sort: Sort::CommandType,
        order: Order::Ascending,
        offset: 0,
        limit: 10,
    };
    assert_eq!(bed.store.count(&tenant("acme"), &meter(), &selection).await.unwrap(), 1);
    let found = bed
        .store
        .tasks(&mut bed.pool.acquire().await.unwrap(), &tenant("acme"), &meter(), &selection, None)
        .await
        .unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].payload, reboot().payload);
}

#[tokio::test]
async fn a_batch_that_goes_wrong_does_not_hold_up_the_others() {
    let bed = Bed::new(Config::default()).await;
    bed.enter(&reboot(), &endpoints(1)).await;
    sqlx::query("UPDATE batches SET tenant_id = 'No Tenant', due_at = '-infinity'")
        .execute(&bed.pool)
        .await
        .unwrap();
    bed.enter(&reboot(), &endpoints(1)).await;
    let work = bed.work();
    let failed = work.step(async |commands| Ok(bed.ledger.invoke(commands, false).await?)).await;
    assert!(matches!(failed, Err(Error::Database(sqlx::Error::Decode(_)))));
    assert!(bed.step(&work).await);
    assert_eq!(bed.count("SELECT count(*) FROM commands").await, 1);
}
