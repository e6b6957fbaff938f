//! The ledger on a real database.

mod away;
mod chance;
mod feed;
mod invoking;
mod lanes;
mod lives;
mod plans;

use std::collections::BTreeMap;

use super::*;
use crate::domain::{NewCommand, NewResult, ResultTaken, Ttl};

/// A ledger with a database of its own.
struct Bed {
    ledger: Ledger,
    pool: PgPool,
    _database: testkit::Database,
}

impl Bed {
    async fn new(config: Config) -> Self {
        let database = testkit::database().await;
        let store = store::Config { url: database.url.clone(), ..store::Config::default() };
        let pool = store::open(&store, "cex", &MIGRATOR).await.unwrap();
        let ledger = Ledger::new(pool.clone(), Arc::new(config), Arc::default());
        Self { ledger, pool, _database: database }
    }

    async fn invoke(&self, command: NewCommand) -> (CommandName, Option<Claim>) {
        match self.ledger.invoke(vec![command], true).await.unwrap().remove(0) {
            Invoked::New { name, claim, .. } => (name, claim),
            other => panic!("{other:?}"),
        }
    }

    async fn sql(&self, sql: &'static str) {
        sqlx::query(sql).execute(&self.pool).await.unwrap();
    }

    async fn state(&self, name: &CommandName) -> State {
        self.ledger.get(name).await.unwrap().unwrap().state
    }

    /// The states that a command went through.
    async fn states(&self, name: &CommandName) -> Vec<State> {
        let command = self.ledger.get(name).await.unwrap().unwrap();
        assert_eq!(command.transitions.last().unwrap().state, command.state);
        assert_eq!(command.transitions.last().unwrap().at, command.updated_at);
        assert!(command.transitions.is_sorted_by_key(|transition| transition.at));
        command.transitions.iter().map(|transition| transition.state).collect()
    }

    async fn result(&self, lane: &Lane, command_id: i32) -> ResultTaken {
        self.ledger.results(lane, vec![result(command_id)]).await.unwrap().remove(0)
    }
}

fn lane(endpoint: &str, command_type: &str) -> Lane {
    Lane {
        tenant: TenantId::parse("acme").unwrap(),
        endpoint_id: EndpointId::parse(endpoint).unwrap(),
        command_type: CommandType::parse(command_type).unwrap(),
    }
}

fn application() -> ApplicationName {
    ApplicationName::parse("meters").unwrap()
}

fn command(lane: &Lane) -> NewCommand {
    NewCommand {
        lane: lane.clone(),
        application: application(),
        payload: Some(Payload::Json("{\"on\": true}".into())),
        ttl: Ttl::For(Duration::from_secs(60)),
        idempotency: None,
        batch: None,
        response_topic: None,
    }
}

fn result(command_id: i32) -> NewResult {
    let payload = Some(Payload::Json("\"\\u0000 done\"".into()));
    NewResult { command_id, status_code: 200, reason_phrase: Some("O\0K".to_owned()), payload }
}

/// An endpoint whose connection began so long ago.
fn connected(endpoint: &str, ago: Duration) -> BTreeMap<EndpointId, DateTime<Utc>> {
    BTreeMap::from([(EndpointId::parse(endpoint).unwrap(), Utc::now() - ago)])
}

fn ids(claim: &Claim) -> Vec<i32> {
    claim.commands.iter().map(|due| due.command_id).collect()
}
