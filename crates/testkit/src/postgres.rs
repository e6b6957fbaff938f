//! PostgreSQL for tests.

use std::env;
use std::path::Path;
use std::process::Command;
use std::thread;

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, PgConnection};
use tokio::sync::OnceCell;

use crate::folder::Folder;
use crate::server::Server;
use crate::{Port, tool};

/// PostgreSQL refuses to run as root; then it runs as this user, which the packages make.
const USER: &str = "postgres";

/// A PostgreSQL of the test's own, for tests that kill it. It ends when this value is dropped.
#[derive(Debug)]
pub struct Postgres {
    /// URL of the superuser `postgres` in the database `postgres`; stays the same after [`Postgres::restart`].
    pub url: String,
    _port: Port,
    server: Server,
}

/// A database of the test's own, empty at first. It is removed when this value is dropped, whoever is connected.
#[derive(Debug)]
pub struct Database {
    /// URL of a superuser in this database.
    pub url: String,
    name: String,
    maintenance: PgConnectOptions,
}

/// Makes a database for the calling test, in the server of `BANDAR_TEST_POSTGRES_URL`, or else in a server that the tests of
/// this process share. Roles are shared by all databases of a server.
///
/// # Panics
/// When PostgreSQL is missing or does not answer.
pub async fn database() -> Database {
    static SHARED: OnceCell<Postgres> = OnceCell::const_new();
    match env::var("BANDAR_TEST_POSTGRES_URL") {
        Ok(url) => Database::create(&url).await,
        Err(_) => SHARED.get_or_init(postgres).await.database().await,
    }
}

/// Starts a PostgreSQL for the calling test alone. That takes a second: use [`database`] where nothing is killed.
///
/// # Panics
/// When PostgreSQL is missing or does not answer within 30 seconds.
pub async fn postgres() -> Postgres {
    let bin = tool::postgres_bin();
    let port = Port::reserve();
    let folder = Folder::new("postgres-");
    let data = folder.path().join("data");
    if tool::user_id() == 0 {
        tool::run(Command::new("chown").arg(USER).arg(folder.path()));
    }
    tool::run(
        unprivileged(&bin.join("initdb"))
            .arg("--pgdata")
            .arg(&data)
            .args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"])
            .current_dir(folder.path()),
    );
    let mut command = unprivileged(&bin.join("postgres"));
    command.arg("-D").arg(&data);
    let settings = [
        format!("port={}", port.number()),
        "listen_addresses=127.0.0.1".to_owned(),
        format!("unix_socket_directories={}", folder.path().display()),
        "max_connections=400".to_owned(),
        // Nothing here must outlive the machine. What is committed must outlive the server, though: synchronous_commit stays on.
        "fsync=off".to_owned(),
        "full_page_writes=off".to_owned(),
    ];
    for setting in settings {
        command.arg("-c").arg(setting);
    }
    let command =
        std::iter::once(command.get_program()).chain(command.get_args()).map(ToOwned::to_owned).collect();
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres", port.number());
    // SIGQUIT is PostgreSQL's immediate shutdown: no checkpoint, as after a crash, but its shared memory is freed.
    let mut postgres = Postgres { url, _port: port, server: Server::new(command, "QUIT", folder) };
    postgres.start().await;
    postgres
}

/// A command that runs as a user that PostgreSQL accepts.
fn unprivileged(program: &Path) -> Command {
    if tool::user_id() != 0 {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", USER, "--regid", USER, "--clear-groups"]).arg(program);
    command
}

impl Postgres {
    /// Makes a database in this server.
    pub async fn database(&self) -> Database {
        Database::create(&self.url).await
    }

    /// Ends the server at once, as in a crash. What was committed stays.
    pub fn kill(&mut self) {
        self.server.kill();
    }

    /// Ends the server at once, if it still runs, and starts it on the same port and files; returns when it answers.
    pub async fn restart(&mut self) {
        self.kill();
        self.start().await;
    }

    async fn start(&mut self) {
        self.server.start();
        self.server.ready(async || PgConnection::connect(&self.url).await.ok()?.close().await.ok()).await;
    }
}

impl Database {
    async fn create(url: &str) -> Self {
        let maintenance: PgConnectOptions = url
            .parse()
            .unwrap_or_else(|error| panic!("BANDAR_TEST_POSTGRES_URL is not a PostgreSQL URL: {error}"));
        let name = format!("test_{}", uuid::Uuid::new_v4().simple());
        let database = Self {
            url: maintenance.clone().database(&name).to_url_lossy().to_string(),
            name: name.clone(),
            maintenance,
        };
        database.maintain(format!("CREATE DATABASE {name} TEMPLATE template0")).await;
        database
    }

    /// Cuts all connections to this database, as a restart of the server would.
    pub async fn terminate_connections(&self) {
        let name = &self.name;
        self.maintain(format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        ))
        .await;
    }

    /// Runs a statement from outside of this database.
    async fn maintain(&self, sql: String) {
        let mut connection = connect(&self.maintenance).await;
        connection
            .execute(AssertSqlSafe(sql.as_str()))
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
        let _ = connection.close().await;
    }
}

async fn connect(options: &PgConnectOptions) -> PgConnection {
    options.connect().await.unwrap_or_else(|error| {
        panic!("cannot connect to PostgreSQL at {}:{}: {error}", options.get_host(), options.get_port())
    })
}

impl Drop for Database {
    /// Removing is a matter of tidiness: a failure is not told. It runs on a thread of its own because a value may be
    /// dropped inside of a runtime, and the test that drops it waits, so that the process does not end before it is done.
    fn drop(&mut self) {
        let options = self.maintenance.clone();
        let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        let remover = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
            runtime.block_on(async {
                let mut connection = options.connect().await.ok()?;
                connection.execute(AssertSqlSafe(sql)).await.ok()
            })
        });
        let _ = remover.join();
    }
}
