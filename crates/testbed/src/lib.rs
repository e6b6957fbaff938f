//! Runs services of the platform inside a test, as a process would, on real NATS and PostgreSQL.
//!
//! For a development dependency only: whatever goes wrong is a panic that says what was done. Two tenants may
//! call the REST interfaces: [`ACME`] and [`OTHER`].
#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "in a test a panic is the report: every caller is a test, and nothing here handles data from outside"
)]

mod nats;
mod rest;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use ids::{InstanceName, ReplicaId};
use ism::{Address, Record};
use runtime::{Entry, Platform, Settings};
use testkit::{Database, Nats};

pub use nats::{Events, Responder};
pub use rest::{Answer, Rest};

/// How long anything may take before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A tenant and its API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tenant {
    /// The tenant's id.
    pub id: &'static str,
    /// An API key that speaks for it.
    pub api_key: &'static str,
}

/// The first tenant.
pub const ACME: Tenant = Tenant { id: "acme", api_key: "key-of-tenant-acme" };
/// The second tenant.
pub const OTHER: Tenant = Tenant { id: "other", api_key: "key-of-tenant-other" };
/// The SHA-256 of the second tenant's key.
const OTHER_DIGEST: &str = "2ec1dcbd9194ca27939c07d354cf16b2546bb70fbd14a14784cb44de01d4dde9";

/// Numbers the questions of tests, as a replica does.
static NEXT_SLOT: AtomicU64 = AtomicU64::new(1);

/// The user of NATS that a test itself is: it may do everything.
const TEST_USER: &str = "test";
/// The password of every user of NATS in a test.
const PASSWORD: &str = "password-of-a-test";

/// Shows warnings of the services in the output of a failed test.
fn log_to_tests() {
    let writer = tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_test_writer();
    // Another test of this process may have been first.
    drop(writer.try_init());
}

/// Running services with a NATS server and a database of their own.
pub struct Testbed {
    /// The NATS server.
    pub nats: Nats,
    /// A connection to it.
    pub client: async_nats::Client,
    /// The database that the services share.
    pub database: Database,
    platform: Platform,
}

impl Testbed {
    /// Starts services with settings (`section.key`, value) beside those that every test needs, and waits
    /// until they serve.
    pub async fn start(entries: &[Entry], settings: &[(&str, &str)]) -> Self {
        log_to_tests();
        // Each service has a user of its own, as in production: what its subjects() do not name is refused.
        let users = runtime::nats_users(entries).unwrap();
        let names: Vec<String> = users.iter().map(|user| user.name.clone()).collect();
        let everything = format!("    {{ user: {TEST_USER}, password: {PASSWORD} }}\n");
        let users = runtime::nats_authorization(&users, |_| PASSWORD.to_owned());
        let authorization = format!("authorization {{\n  users: [\n{users}{everything}  ]\n}}\n");
        let (nats, database) = tokio::join!(testkit::nats_with(&authorization), testkit::database());
        let keys = format!("[{{tenant=\"{}\",api_key_sha256=\"{OTHER_DIGEST}\"}}]", OTHER.id);
        let common = [
            ("nats.url", nats.url.as_str()),
            ("postgres.url", database.url.as_str()),
            ("postgres.max_connections", "4"),
            ("http.listen", "127.0.0.1:0"),
            (
                "http.auth.tenant_manager",
                if entries.iter().any(|entry| entry.name == "tm") { "true" } else { "false" },
            ),
            ("http.auth.tenant", ACME.id),
            ("http.auth.api_key", ACME.api_key),
            ("http.auth.keys", keys.as_str()),
        ];
        let passwords = names.iter().map(|name| (format!("nats.users.{name}"), PASSWORD.to_owned()));
        let overrides =
            common.iter().chain(settings).map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let overrides = passwords.chain(overrides);
        let settings = Settings::from_layers(None, Vec::new(), overrides.collect());
        let names: Vec<&'static str> = entries.iter().map(|entry| entry.name).collect();
        let started = Platform::start(&settings, entries, &names, None).await;
        let mut platform = started.unwrap_or_else(|error| panic!("the services did not start: {error:#}"));
        let ready = tokio::time::timeout(PATIENCE, platform.ready()).await;
        let ready = ready.unwrap_or_else(|_| panic!("the services were not ready within {PATIENCE:?}"));
        ready.unwrap_or_else(|error| panic!("the services did not start: {error:#}"));
        let client = nats.client_as(TEST_USER, PASSWORD).await;
        Self { nats, client, database, platform }
    }

    /// The REST interfaces, called by a tenant.
    #[must_use]
    pub fn rest(&self, tenant: Tenant) -> Rest {
        Rest::new(self.platform.http_address(), tenant.api_key)
    }

    /// Sends a request record to a service and reads its response record, as a service of the platform would: services may answer
    /// only to subjects of that form.
    pub async fn ask<Q: Record, R: Record>(&self, subject: String, request: &Q) -> R {
        let reply = reply_subject::<R>(&subject);
        let mut answers = self.client.subscribe(reply.clone()).await.unwrap();
        let asked = self.client.publish_with_reply(subject.clone(), reply, request.encode()).await;
        asked.unwrap_or_else(|error| panic!("{subject}: {error}"));
        let answer = tokio::time::timeout(PATIENCE, answers.next()).await;
        let answer = answer.ok().flatten().unwrap_or_else(|| panic!("{subject} does not answer"));
        assert!(answer.status.is_none(), "nobody listens at {subject}");
        R::decode(&answer.payload).unwrap_or_else(|error| panic!("{} from {subject}: {error}", R::NAME))
    }

    /// Stops the services; every one must end in time.
    pub async fn stop(self) {
        self.platform.stop().await.unwrap_or_else(|error| panic!("the services did not stop: {error:#}"));
    }
}

/// Where a test gets answers of this type from whoever is asked at a subject.
fn reply_subject<R: Record>(asked: &str) -> String {
    let entry = ism::CATALOGUE.iter().find(|entry| entry.record == R::NAME && entry.schema == R::SCHEMA);
    let addresses = entry.map(|entry| entry.addresses).unwrap_or_default();
    let (replica, slot) = (ReplicaId::parse("test-0").unwrap(), NEXT_SLOT.fetch_add(1, Ordering::Relaxed));
    let reply = addresses.iter().find_map(|address| match address {
        Address::Reply(message) => Some(message.reply(&replica, slot)),
        Address::ReplyBy(message) => {
            let instance = asked.split('.').nth(3).and_then(|instance| InstanceName::parse(instance).ok());
            let instance = instance.unwrap_or_else(|| panic!("{asked} names no instance"));
            Some(message.by(&instance).reply(&replica, slot))
        }
        _ => None,
    });
    reply.unwrap_or_else(|| panic!("{} is not an answer", R::NAME))
}
