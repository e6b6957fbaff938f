//! The database goes away and comes back: never a false receipt, and recovery without help.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use serde_json::json;
use testkit::eventually;
use tokio::task::JoinSet;

use crate::bed::{Bed, PATIENCE, Register, send};

fn register() -> Register {
    Register::from([
        (
            "app",
            json!({"timestamp": {"path": "ts", "format": "millis-unix-epoch", "fallback-strategy": "fail"}}),
        ),
        ("other", json!({})),
    ])
}

/// Devices that send samples, each at a moment of its own, until they are stopped.
struct Load {
    tasks: JoinSet<(BTreeSet<i64>, usize)>,
    stopping: Arc<AtomicBool>,
    confirmed: Arc<AtomicI64>,
}

impl Load {
    fn start(bed: &Arc<Bed>) -> Self {
        let (stopping, confirmed) = (Arc::<AtomicBool>::default(), Arc::<AtomicI64>::default());
        let mut tasks = JoinSet::new();
        for device in 0..8_i64 {
            let (bed, stopping, total) = (bed.clone(), stopping.clone(), confirmed.clone());
            tasks.spawn(async move {
                let (mut confirmed, mut refused) = (BTreeSet::new(), 0);
                let mut ts = 1_700_000_000_000 + device * 100_000_000;
                while !stopping.load(Ordering::Relaxed) {
                    ts += 1;
                    let event =
                        bed.event("app", &format!("device-{device}"), &[json!({"ts": ts, "t": ts % 100})]);
                    match send(&bed.client, event).await {
                        Some((200, _)) => {
                            confirmed.insert(ts);
                            total.fetch_add(1, Ordering::Relaxed);
                        }
                        Some((503 | 504, _)) => refused += 1,
                        other => panic!("neither stored nor unavailable: {other:?}"),
                    }
                }
                (confirmed, refused)
            });
        }
        Self { tasks, stopping, confirmed }
    }

    /// Waits until so many more messages have been confirmed.
    async fn go_on(&self, more: i64) {
        let goal = self.confirmed.load(Ordering::Relaxed) + more;
        eventually("the load goes on", PATIENCE, async || {
            (self.confirmed.load(Ordering::Relaxed) >= goal).then_some(())
        })
        .await;
    }

    /// Stops; what was confirmed, and how many messages were not.
    async fn stop(self) -> (BTreeSet<i64>, usize) {
        self.stopping.store(true, Ordering::Relaxed);
        let mut all = (BTreeSet::new(), 0);
        for (confirmed, refused) in self.tasks.join_all().await {
            all.0.extend(confirmed);
            all.1 += refused;
        }
        all
    }
}

async fn stored(bed: &Bed) -> BTreeSet<i64> {
    let rows: Vec<i64> = sqlx::query_scalar("SELECT (extract(epoch FROM ts) * 1000)::bigint FROM point")
        .fetch_all(&bed.sql().await)
        .await
        .unwrap();
    let distinct: BTreeSet<i64> = rows.iter().copied().collect();
    assert_eq!(rows.len(), distinct.len(), "a point is stored twice");
    distinct
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_of_the_database_loses_nothing_that_was_confirmed() {
    let (nats, mut postgres) = tokio::join!(testkit::nats(), testkit::postgres());
    let database = postgres.database().await;
    let bed = Arc::new(Bed::on(nats, database, register()).await);
    let replica = bed.start(&[]).await;
    let load = Load::start(&bed);
    load.go_on(100).await;
    for _ in 0..2 {
        postgres.kill();
        tokio::time::sleep(Duration::from_millis(300)).await;
        postgres.restart().await;
        load.go_on(100).await;
    }
    let (confirmed, refused) = load.stop().await;
    let stored = stored(&bed).await;
    assert!(
        confirmed.is_subset(&stored),
        "confirmed but not stored: {:?}",
        confirmed.difference(&stored).take(5).collect::<Vec<_>>()
    );
    assert!(refused > 0, "the crashes were not felt");
    let books = replica.books("app").await;
    let count = |key: &str| books["messages"][key].as_u64().unwrap();
    assert_eq!(count("inFlight"), 0);
    assert_eq!(count("stored"), u64::try_from(confirmed.len()).unwrap());
    assert_eq!(count("failed"), u64::try_from(refused).unwrap());
    replica.platform.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_connections_cost_at_most_an_error() {
    let bed = Arc::new(Bed::new(register()).await);
    let replica = bed.start(&[]).await;
    let load = Load::start(&bed);
    for _ in 0..5 {
        load.go_on(50).await;
        bed.database.terminate_connections().await;
    }
    load.go_on(50).await;
    let (confirmed, _) = load.stop().await;
    assert!(confirmed.is_subset(&stored(&bed).await));
    replica.platform.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_vanishes_is_made_again() {
    let bed = Arc::new(Bed::new(register()).await);
    let replica = bed.start(&[]).await;
    let sample = json!({"ts": 1_700_000_000_000_i64, "t": 1});
    bed.store("app", "e", std::slice::from_ref(&sample)).await;
    sqlx::query("DROP TABLE point_20230101_20240101").execute(&bed.sql().await).await.unwrap();
    bed.store("app", "e", &[sample]).await;
    assert_eq!(replica.points("app", "e", "auto~t").await.len(), 1);
    replica.platform.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_the_database_refuses_does_not_spoil_the_others() {
    let bed = Arc::new(Bed::new(register()).await);
    let replica = bed.start(&[]).await;
    bed.store("app", "e", &[json!({"ts": 1_700_000_000_000_i64, "t": 1})]).await;
    // Stands in for any fault in a value that the service does not see itself.
    sqlx::query("ALTER TABLE point ADD CONSTRAINT test_check CHECK (number <> 13)")
        .execute(&bed.sql().await)
        .await
        .unwrap();
    let sending = (0..50_i64).map(|t| {
        let bed = bed.clone();
        async move { bed.send(bed.event("app", "e", &[json!({"ts": 1_700_000_001_000 + t, "t": t})])).await.0 }
    });
    let statuses = futures::future::join_all(sending).await;
    let expected: Vec<i32> = (0..50).map(|t| if t == 13 { 400 } else { 200 }).collect();
    assert_eq!(statuses, expected);
    replica.platform.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_at_once_and_late_messages_are_dropped() {
    let bed = Arc::new(Bed::new(register()).await);
    let replica = bed.start(&[("epts.queue_messages_max", "5"), ("epts.commit_rows_max", "1")]).await;
    bed.store("other", "e", &[json!({"t": 0})]).await;
    let sql = bed.sql().await;
    let mut lock = sql.begin().await.unwrap();
    sqlx::query("LOCK TABLE point IN ACCESS EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();

    // The first goes into the commit that waits for the lock, some are queued, the others are refused.
    let mut sending = JoinSet::new();
    for t in 0..50 {
        let bed = bed.clone();
        sending.spawn(async move { bed.send(bed.event("other", "e", &[json!({ "t": t })])).await });
    }
    let mut full = 0;
    eventually("most are refused", PATIENCE, async || {
        while let Some(receipt) = sending.try_join_next() {
            let (status, reason) = receipt.unwrap();
            assert!(status == 503 && reason.contains("epts.queue_messages_max"), "{status} {reason}");
            full += 1;
        }
        let books = replica.books("other").await;
        (books["messages"]["inFlight"].as_u64().unwrap() + full == 50).then_some(())
    })
    .await;
    assert!(full > 0);
    lock.rollback().await.unwrap();
    while let Some(receipt) = sending.join_next().await {
        assert_eq!(receipt.unwrap().0, 200);
    }

    // A message whose deadline passes in the queue is not stored.
    let mut lock = sql.begin().await.unwrap();
    sqlx::query("LOCK TABLE point IN ACCESS EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
    let subject = ism::dstp::DATA_SAMPLES_RECEIVED.of(&ids::InstanceName::parse("dcx").unwrap());
    for timeout in [0, 200] {
        let mut event = bed.event("other", "e", &[json!({"t": 1})]);
        event.timeout = timeout;
        bed.client.publish(subject.clone(), ism::Record::encode(&event)).await.unwrap();
    }
    eventually("both are there", PATIENCE, async || {
        (replica.books("other").await["messages"]["inFlight"] == 2).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    lock.rollback().await.unwrap();
    eventually("one has expired", PATIENCE, async || {
        let books = replica.books("other").await;
        (books["messages"]["expired"] == 1 && books["messages"]["inFlight"] == 0).then_some(())
    })
    .await;
    replica.platform.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_register_known_applications_go_on_and_others_are_told() {
    let bed = Arc::new(Bed::new(register()).await);
    let replica = bed.start(&[]).await;
    bed.store("app", "e", &[json!({"ts": 1_700_000_000_000_i64, "t": 1})]).await;
    bed.tekton.abort();
    eventually("the register is gone", PATIENCE, async || {
        let (status, reason) = bed.send(bed.event("other", "e", &[json!({"t": 1})])).await;
        (status == 503 && reason.contains("register")).then_some(())
    })
    .await;
    bed.store("app", "e", &[json!({"ts": 1_700_000_000_001_i64, "t": 2})]).await;
    // What is stored can be read without the register, by its tenant only.
    assert_eq!(replica.points("app", "e", "auto~t").await.len(), 2);
    let path = "applications/app/time-series/data?timeSeriesName=auto~t&fromDate=1970-01-01&toDate=now";
    let (status, body) = replica.get_as_other(path).await;
    assert!(status == 404 || body == json!([]), "{status} {body}");
    replica.platform.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn whether_a_message_may_be_stored_is_told_by_the_status() {
    let (nats, postgres) = tokio::join!(testkit::nats(), testkit::postgres());
    let database = postgres.database().await;
    let bed = Arc::new(Bed::on(nats, database, register()).await);
    let replica = bed.start(&[]).await;
    // Ends before the database is removed, which while a COMMIT waits would wait, too.
    let mut postgres = postgres;
    bed.store("other", "e", &[json!({"t": 0})]).await;
    // Each COMMIT waits for a standby that does not exist: the point is stored, but nobody has been told.
    let sql = bed.sql().await;
    for statement in ["ALTER SYSTEM SET synchronous_standby_names = 'nobody'", "SELECT pg_reload_conf()"] {
        sqlx::query(statement).execute(&sql).await.unwrap();
    }
    let mut sent = 1_i64;
    let unknown = loop {
        let sending = bed.send(bed.event("other", "e", &[json!({"t": 1})]));
        let ending = eventually("its backend waits for the standby", PATIENCE, async || {
            let ended: Vec<bool> = sqlx::query_scalar(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'",
            )
            .fetch_all(&sql)
            .await
            .unwrap();
            (!ended.is_empty()).then_some(())
        });
        tokio::pin!(sending);
        sent += 1;
        let receipt = tokio::select! {
            receipt = &mut sending => receipt,
            () = ending => sending.await,
        };
        // Until the new setting holds it is stored.
        if receipt.0 != 200 {
            break receipt;
        }
    };
    for statement in ["ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()"] {
        sqlx::query(statement).execute(&sql).await.unwrap();
    }
    assert_eq!(unknown, (504, "it is not known whether the message was stored".to_owned()));
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM point").fetch_one(&sql).await.unwrap();
    assert_eq!(count, sent, "it was stored, and a repeat would store it twice");

    // The series of an endpoint that is new are looked up first, so nothing has been written when that fails.
    drop(sql);
    postgres.kill();
    let (status, reason) = bed.send(bed.event("other", "new", &[json!({"t": 1})])).await;
    assert!(status == 503 && reason.contains("database"), "{status} {reason}");
    eventually("no connection is left", PATIENCE, async || {
        let (status, _) = bed.send(bed.event("other", "e", &[json!({"t": 2})])).await;
        (status == 503).then_some(())
    })
    .await;
    postgres.restart().await;
    eventually("it goes on", PATIENCE, async || {
        (bed.send(bed.event("other", "e", &[json!({"t": 3})])).await.0 == 200).then_some(())
    })
    .await;
    replica.platform.stop().await.unwrap();
}
