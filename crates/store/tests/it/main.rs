//! Schemas, roles, migrations and pools on a real PostgreSQL.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, PgPool, Row as _};
use store::{Config, ConstraintExt as _, Error};
use testkit::{Database, eventually};

static DCX: Migrator = sqlx::migrate!("tests/it/dcx");
static DCX_NEXT: Migrator = sqlx::migrate!("tests/it/dcx_next");
static CM: Migrator = sqlx::migrate!("tests/it/cm");
static BROKEN: Migrator = sqlx::migrate!("tests/it/broken");

const WITHIN: Duration = Duration::from_secs(20);

fn config(url: &str) -> Config {
    Config { url: url.to_owned(), max_connections: 2, ..Config::default() }
}

async fn dcx(database: &Database) -> PgPool {
    store::open(&config(&database.url), "dcx", &DCX).await.unwrap()
}

async fn one<T>(pool: &PgPool, sql: &'static str) -> T
where
    T: Send + Unpin + for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    sqlx::query_scalar(sql).fetch_one(pool).await.unwrap()
}

#[tokio::test]
async fn a_service_works_as_its_role_in_its_schema() {
    let database = testkit::database().await;
    let pool = dcx(&database).await;
    assert_eq!(one::<String>(&pool, "SELECT current_user::text").await, "bandar_dcx");
    assert_eq!(one::<String>(&pool, "SELECT current_schema()::text").await, "dcx");
    assert_eq!(one::<String>(&pool, "SHOW application_name").await, "bandar-dcx");
    assert_eq!(one::<String>(&pool, "SHOW statement_timeout").await, "30s");
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT schemaname || '.' || tablename FROM pg_tables WHERE tableowner = 'bandar_dcx' ORDER BY 1",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert_eq!(tables, ["dcx._sqlx_migrations", "dcx.samples"]);
}

#[tokio::test]
async fn a_commit_is_on_the_disk_whatever_the_database_says() {
    let database = testkit::database().await;
    let mut connection = PgConnection::connect(&database.url).await.unwrap();
    let name: String =
        sqlx::query_scalar("SELECT current_database()").fetch_one(&mut connection).await.unwrap();
    let weaken = format!(r#"ALTER DATABASE "{name}" SET synchronous_commit = off"#);
    connection.execute(AssertSqlSafe(weaken)).await.unwrap();
    let mut weakened = PgConnection::connect(&database.url).await.unwrap();
    let value: String = sqlx::query_scalar("SHOW synchronous_commit").fetch_one(&mut weakened).await.unwrap();
    assert_eq!(value, "off");
    assert_eq!(one::<String>(&dcx(&database).await, "SHOW synchronous_commit").await, "local");

    let stronger = format!(r#"ALTER DATABASE "{name}" SET synchronous_commit = remote_apply"#);
    connection.execute(AssertSqlSafe(stronger)).await.unwrap();
    assert_eq!(one::<String>(&dcx(&database).await, "SHOW synchronous_commit").await, "remote_apply");
}

#[tokio::test]
async fn no_service_can_read_the_tables_of_another() {
    let database = testkit::database().await;
    let dcx = dcx(&database).await;
    let _cm = store::open(&config(&database.url), "cm", &CM).await.unwrap();
    for sql in
        ["SELECT * FROM cm.tokens", "INSERT INTO cm.tokens VALUES ('x')", "CREATE TABLE cm.mine (id int)"]
    {
        let error = dcx.execute(sql).await.unwrap_err();
        assert_eq!(error.as_database_error().unwrap().code().as_deref(), Some("42501"), "{sql}: {error}");
    }
}

#[tokio::test]
async fn opening_again_and_at_once_is_fine() {
    let database = testkit::database().await;
    let opened = tokio::join!(dcx(&database), dcx(&database), dcx(&database), dcx(&database));
    assert_eq!(one::<i64>(&opened.0, "SELECT count(*) FROM _sqlx_migrations").await, 1);
    assert_eq!(one::<i64>(&dcx(&database).await, "SELECT count(*) FROM samples").await, 0);
}

#[tokio::test]
async fn databases_of_one_server_may_be_opened_at_once() {
    let postgres = testkit::postgres().await;
    let databases = [postgres.database().await, postgres.database().await, postgres.database().await];
    let [a, b, c] = &databases;
    tokio::join!(dcx(a), dcx(b), dcx(c));
}

#[tokio::test]
async fn an_older_version_opens_what_a_newer_one_has_migrated() {
    let database = testkit::database().await;
    let newer = store::open(&config(&database.url), "dcx", &DCX_NEXT).await.unwrap();
    let older = dcx(&database).await;
    older.execute("INSERT INTO samples (id) VALUES (1)").await.unwrap();
    assert_eq!(one::<i64>(&newer, "SELECT count(*) FROM samples WHERE note IS NULL").await, 1);
}

#[tokio::test]
async fn a_failed_migration_leaves_nothing_and_is_told() {
    let database = testkit::database().await;
    let error = store::open(&config(&database.url), "dcx", &BROKEN).await.unwrap_err();
    assert!(matches!(error, Error::Migrate { service: "dcx", .. }), "{error:?}");
    let mut connection = PgConnection::connect(&database.url).await.unwrap();
    let half = connection.fetch_one("SELECT to_regclass('dcx.half') IS NULL").await.unwrap();
    assert!(half.get::<bool, _>(0));
}

#[tokio::test]
async fn a_broken_constraint_gets_its_meaning() {
    #[derive(Debug)]
    enum Failure {
        Taken,
        Database,
    }
    impl From<sqlx::Error> for Failure {
        fn from(_: sqlx::Error) -> Self {
            Self::Database
        }
    }

    let database = testkit::database().await;
    let pool = dcx(&database).await;
    pool.execute("INSERT INTO samples VALUES (1, 'one')").await.unwrap();
    let insert = async |sql: &'static str| {
        pool.execute(sql).await.on_constraint("samples_text_key", || Failure::Taken)
    };
    assert!(matches!(insert("INSERT INTO samples VALUES (2, 'one')").await, Err(Failure::Taken)));
    assert!(matches!(insert("INSERT INTO samples VALUES (1, 'two')").await, Err(Failure::Database)));
    assert!(insert("INSERT INTO samples VALUES (2, 'two')").await.is_ok());
}

#[tokio::test]
async fn a_pool_outlives_its_connections() {
    let database = testkit::database().await;
    let pool = dcx(&database).await;
    one::<i32>(&pool, "SELECT 1").await;
    database.terminate_connections().await;
    let role = eventually("a new connection", WITHIN, async || {
        sqlx::query_scalar::<_, String>("SELECT current_user::text").fetch_one(&pool).await.ok()
    });
    assert_eq!(role.await, "bandar_dcx");
}

#[tokio::test]
async fn opening_waits_for_the_server_and_the_pool_outlives_its_restart() {
    let mut postgres = testkit::postgres().await;
    let database = postgres.database().await;
    postgres.kill();
    let settings = config(&database.url);
    let opening = tokio::spawn(async move { store::open(&settings, "dcx", &DCX).await });
    postgres.restart().await;
    let pool = opening.await.unwrap().unwrap();
    pool.execute("INSERT INTO samples VALUES (1, 'one')").await.unwrap();

    postgres.restart().await;
    let kept = eventually("an answer after the restart", WITHIN, async || {
        sqlx::query_scalar::<_, i64>("SELECT count(*) FROM samples").fetch_one(&pool).await.ok()
    });
    assert_eq!(kept.await, 1);
}

#[tokio::test]
async fn a_login_without_privileges_gets_the_sql_to_run() {
    let postgres = testkit::postgres().await;
    let database = postgres.database().await;
    let mut admin = PgConnection::connect(&database.url).await.unwrap();
    admin.execute("CREATE ROLE plain LOGIN").await.unwrap();
    let url = database.url.replace("postgres://postgres@", "postgres://plain@");

    let error = store::open(&config(&url), "dcx", &DCX).await.unwrap_err();
    let Error::Privilege { sql, user, .. } = &error else { panic!("{error:?}") };
    assert_eq!(user, "plain");
    assert!(error.to_string().contains(r#"CREATE ROLE "bandar_dcx" NOLOGIN;"#), "{error}");

    admin.execute(AssertSqlSafe(sql.as_str())).await.unwrap();
    let pool = store::open(&config(&url), "dcx", &DCX).await.unwrap();
    assert_eq!(one::<i64>(&pool, "SELECT count(*) FROM samples").await, 0);
}

#[tokio::test]
async fn the_owner_of_the_database_needs_no_superuser() {
    let postgres = testkit::postgres().await;
    let database = postgres.database().await;
    let mut admin = PgConnection::connect(&database.url).await.unwrap();
    let give = "CREATE ROLE harbour LOGIN CREATEROLE;
                DO $$ BEGIN EXECUTE format('ALTER DATABASE %I OWNER TO harbour', current_database()); END $$";
    admin.execute(give).await.unwrap();
    let url = database.url.replace("postgres://postgres@", "postgres://harbour@");
    let pool = store::open(&config(&url), "dcx", &DCX).await.unwrap();
    assert_eq!(one::<String>(&pool, "SELECT current_user::text").await, "bandar_dcx");
}

#[tokio::test]
async fn a_refused_login_is_told_at_once() {
    let database = testkit::database().await;
    let url = database.url.replace("postgres://postgres", "postgres://nobody_of_that_name");
    let error = store::open(&config(&url), "dcx", &DCX).await.unwrap_err();
    assert!(matches!(error, Error::Login { .. }), "{error:?}");
}

#[tokio::test]
async fn a_statement_that_takes_too_long_is_cut_off() {
    let database = testkit::database().await;
    let settings = Config { statement_timeout_ms: 100, ..config(&database.url) };
    let pool = store::open(&settings, "dcx", &DCX).await.unwrap();
    let error = pool.execute("SELECT pg_sleep(60)").await.unwrap_err();
    assert_eq!(error.as_database_error().unwrap().code().as_deref(), Some("57014"));
}
