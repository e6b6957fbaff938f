//! What happens to commands within one transaction: written with it, told after it.

use chrono::{DateTime, Utc};
use ids::ApplicationName;
use sqlx::PgConnection;

use crate::domain::{CommandKey, CommandName, Happening, State, Transition};

const WRITE: &str = "
INSERT INTO transitions (command_key, tenant_id, application_name, state, reason, at)
SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::timestamptz[])";

/// The transitions of one transaction.
#[derive(Debug, Default)]
pub(super) struct Journal(Vec<(CommandKey, Happening)>);

impl Journal {
    pub(super) fn add(
        &mut self,
        (key, name, application): (CommandKey, &CommandName, &ApplicationName),
        state: State,
        reason: Option<&str>,
        at: DateTime<Utc>,
    ) {
        let transition = Transition { state, reason: reason.map(ToOwned::to_owned), at };
        let (name, application) = (name.clone(), application.clone());
        self.0.push((key, Happening { name, application, transition }));
    }

    pub(super) async fn write(&self, connection: &mut PgConnection) -> sqlx::Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let all = || self.0.iter();
        let keys: Vec<i64> = all().map(|(key, _)| key.0).collect();
        let tenants: Vec<&str> = all().map(|(_, happening)| happening.name.lane.tenant.as_str()).collect();
        let applications: Vec<&str> = all().map(|(_, happening)| happening.application.as_str()).collect();
        let states: Vec<&str> = all().map(|(_, happening)| happening.transition.state.as_str()).collect();
        let reasons: Vec<Option<&str>> =
            all().map(|(_, happening)| happening.transition.reason.as_deref()).collect();
        let moments: Vec<DateTime<Utc>> = all().map(|(_, happening)| happening.transition.at).collect();
        sqlx::query(WRITE)
            .bind(keys)
            .bind(tenants)
            .bind(applications)
            .bind(states)
            .bind(reasons)
            .bind(moments)
            .execute(connection)
            .await?;
        Ok(())
    }

    pub(super) fn into_happenings(self) -> Vec<Happening> {
        self.0.into_iter().map(|(_, happening)| happening).collect()
    }
}
