//! Real NATS and PostgreSQL for tests.
//!
//! Nothing is mocked: [`nats`] starts a `nats-server` of its own for each call, [`database`] makes a fresh database for
//! each call in a PostgreSQL that the tests of one process share. All of it ends with the test process, however that ends, and
//! leaves nothing behind. For a development dependency only: whatever goes wrong is a panic that says what to do.
//!
//! | environment | meaning | else |
//! |---|---|---|
//! | `BANDAR_NATS_SERVER` | path of the `nats-server` binary | `.tools/bin/nats-server` of the repository, then `PATH` |
//! | `BANDAR_TEST_POSTGRES_URL` | a running PostgreSQL in which a superuser may make databases and roles | a cluster of its own for each test process |
//! | `BANDAR_POSTGRES_BIN` | folder with `initdb` and `postgres` | `/usr/lib/postgresql/<newest>/bin`, then `PATH` |
#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "in a test a panic is the report: every caller is a test, and nothing here handles data from outside"
)]

mod eventually;
mod folder;
mod nats;
mod port;
mod postgres;
mod server;
mod tool;

pub use eventually::eventually;
pub use nats::{Nats, nats, nats_with};
pub use port::Port;
pub use postgres::{Database, Postgres, database, postgres};
