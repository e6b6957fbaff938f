//! Invocations: commands get their ids and enter the ledger.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use ids::{EndpointId, TenantId};
use sqlx::PgConnection;

use super::claims::Claims;
use super::journal::Journal;
use super::keys::{self, Keyed};
use super::lanes::{Lanes, columns};
use super::{Invoked, Ledger, ms, signed};
use crate::config::Config;
use crate::domain::{BatchKey, CommandKey, CommandName, Lane, NewCommand, Payload, State, Ttl};

const INSERT: &str = "
INSERT INTO commands (tenant_id, endpoint_id, command_type, application_name, command_id, state, payload, payload_is_text,
    is_once, created_at, updated_at, next_attempt_at, expires_at, batch_key, response_topic)
SELECT g.tenant_id, g.endpoint_id, g.command_type, g.application_name, g.command_id, 'CREATED', g.payload, g.is_text,
    g.is_once, statement_timestamp(), statement_timestamp(), statement_timestamp(),
    statement_timestamp() + g.ttl_ms * interval '1 millisecond', g.batch_key, g.response_topic
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::integer[], $6::bytea[], $7::boolean[], $8::boolean[],
        $9::bigint[], $10::bigint[], $11::text[])
    AS g (tenant_id, endpoint_id, command_type, application_name, command_id, payload, is_text, is_once, ttl_ms, batch_key,
        response_topic)
RETURNING command_key, tenant_id, endpoint_id, command_type, command_id, created_at";

/// Commands that are to be invoked together.
#[derive(Debug)]
pub(super) struct Invocation {
    pub(super) commands: Vec<NewCommand>,
    /// Whether the caller pushes what it is given a claim for.
    pub(super) claim: bool,
}

/// All commands of a transaction, and what is known of each.
pub(super) struct Invocations<'a> {
    commands: Vec<&'a NewCommand>,
    claims: Vec<bool>,
    keyed: Vec<Keyed>,
    invoked: Vec<Option<Invoked>>,
}

impl Ledger {
    /// Writes commands into the ledger, in one transaction, and answers for each in the order given. With `claim`, the lane
    /// of a command that may be pushed and that nobody pushes at is claimed in the same transaction.
    pub(crate) async fn invoke(&self, commands: Vec<NewCommand>, claim: bool) -> sqlx::Result<Vec<Invoked>> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        self.writers.invoke(Invocation { commands, claim }).await
    }
}

impl<'a> Invocations<'a> {
    /// Takes the keys and makes the lanes that are missing. None: to be tried again.
    pub(super) async fn begin(
        connection: &mut PgConnection,
        invocations: impl Iterator<Item = &'a Invocation>,
    ) -> sqlx::Result<Option<Self>> {
        let (mut commands, mut claims) = (Vec::new(), Vec::new());
        for invocation in invocations {
            commands.extend(invocation.commands.iter());
            claims.resize(commands.len(), invocation.claim);
        }
        let Some(keyed) = keys::take(connection, &commands).await? else { return Ok(None) };
        let invoked = vec![None; commands.len()];
        let all = Self { commands, claims, keyed, invoked };
        let lanes: BTreeMap<_, _> =
            all.new_ones().map(|(_, command)| (&command.lane, &command.application)).collect();
        if !lanes.is_empty() {
            Lanes::add(connection, &lanes).await?;
        }
        Ok(Some(all))
    }

    fn new_ones(&self) -> impl Iterator<Item = (usize, &'a NewCommand)> {
        let all = self.commands.iter().copied().zip(&self.keyed).enumerate();
        all.filter(|(_, (_, keyed))| matches!(keyed, Keyed::New))
            .map(|(index, (command, _))| (index, command))
    }

    /// The lanes that get new commands.
    pub(super) fn lanes(&self) -> impl Iterator<Item = &'a Lane> {
        self.new_ones().map(|(_, command)| &command.lane)
    }

    /// Writes the new commands into their lanes, which are locked. None: a lane has gone in this moment; to be tried again.
    pub(super) async fn write(
        &mut self,
        connection: &mut PgConnection,
        config: &Config,
        lanes: &mut Lanes,
        journal: &mut Journal,
    ) -> sqlx::Result<Option<()>> {
        let Some((accepted, refused)) = self.number(config, lanes) else { return Ok(None) };
        if !refused.is_empty() {
            keys::free(connection, &refused).await?;
        }
        if accepted.is_empty() {
            return Ok(Some(()));
        }
        let rows = insert(connection, config, &accepted).await?;
        let mut bound = Vec::with_capacity(accepted.len());
        for Accepted { index, command, command_id } in accepted {
            let name = CommandName { lane: command.lane.clone(), command_id };
            let Some(&(key, at)) = rows.get(&name) else { continue };
            journal.add((key, &name, &command.application), State::Created, None, at);
            if let Some(held) = lanes.get_mut(&command.lane) {
                let claim = self.claims.get(index).copied().unwrap_or_default();
                held.is_wanted |= claim;
                if !claim {
                    held.look_at(at);
                }
            }
            bound.push((command, key));
            self.set(index, Invoked::New { name, claim: None });
        }
        keys::bind(connection, &bound).await?;
        Ok(Some(()))
    }

    /// Gives ids to the new commands, as far as their endpoints may have more.
    fn number(
        &mut self,
        config: &Config,
        lanes: &mut Lanes,
    ) -> Option<(Vec<Accepted<'a>>, Vec<&'a NewCommand>)> {
        let max = i64::from(config.outstanding_per_endpoint_max);
        let mut outstanding: HashMap<(&TenantId, &EndpointId), i64> = HashMap::new();
        let (mut accepted, mut refused) = (Vec::new(), Vec::new());
        let new_ones: Vec<_> = self.new_ones().collect();
        for (index, command) in new_ones {
            let held = lanes.get_mut(&command.lane)?;
            let endpoint = (&command.lane.tenant, &command.lane.endpoint_id);
            let count = outstanding.entry(endpoint).or_insert(held.outstanding);
            // The last id there can be is as good as a limit.
            let next = held.last_command_id.checked_add(1).filter(|_| *count < max);
            let Some(command_id) = next else {
                refused.push(command);
                self.set(index, Invoked::TooMany(u32::try_from(*count).unwrap_or(u32::MAX)));
                continue;
            };
            *count += 1;
            held.last_command_id = command_id;
            // An endpoint that was deleted may be registered anew, elsewhere.
            held.application_name = command.application.clone();
            held.is_changed = true;
            accepted.push(Accepted { index, command, command_id });
        }
        Some((accepted, refused))
    }

    fn set(&mut self, index: usize, invoked: Invoked) {
        if let Some(slot) = self.invoked.get_mut(index) {
            *slot = Some(invoked);
        }
    }

    /// What became of each, in the order given. To be called after the commit.
    pub(super) fn finish(mut self, claims: &mut Claims) -> Vec<Invoked> {
        for ((invoked, command), wanted) in self.invoked.iter_mut().zip(&self.commands).zip(&self.claims) {
            if let Some(Invoked::New { claim, .. }) = invoked
                && *wanted
            {
                *claim = claims.take(&command.lane);
            }
        }
        let answer = |keyed: &Keyed, invoked: &Option<Invoked>| match keyed {
            Keyed::Repeats(name) => Invoked::Repeated { name: name.clone() },
            Keyed::Reused => Invoked::KeyReused,
            Keyed::New | Keyed::SameAs(_) => invoked.clone().unwrap_or(Invoked::KeyReused),
        };
        let same = |first: usize| match self.keyed.get(first).zip(self.invoked.get(first)) {
            Some((keyed, invoked)) => match answer(keyed, invoked) {
                Invoked::New { name, .. } => Invoked::Repeated { name },
                other => other,
            },
            None => Invoked::KeyReused,
        };
        let all = self.keyed.iter().zip(&self.invoked);
        all.map(|(keyed, invoked)| match keyed {
            Keyed::SameAs(first) => same(*first),
            keyed => answer(keyed, invoked),
        })
        .collect()
    }
}

/// A command that has got its id.
struct Accepted<'a> {
    index: usize,
    command: &'a NewCommand,
    command_id: i32,
}

#[derive(sqlx::FromRow)]
struct InsertedRow {
    command_key: i64,
    tenant_id: String,
    endpoint_id: String,
    command_type: String,
    command_id: i32,
    created_at: DateTime<Utc>,
}

async fn insert(
    connection: &mut PgConnection,
    config: &Config,
    accepted: &[Accepted<'_>],
) -> sqlx::Result<HashMap<CommandName, (CommandKey, DateTime<Utc>)>> {
    let commands = || accepted.iter().map(|accepted| accepted.command);
    let (tenants, endpoints, types) = columns(commands().map(|command| &command.lane));
    let lives = commands().map(|command| match command.ttl {
        Ttl::Once => signed(config.push_timeout_ms),
        Ttl::For(ttl) => ms(ttl),
    });
    let payloads: Vec<Option<&[u8]>> =
        commands().map(|command| command.payload.as_ref().map(|payload| &**payload.bytes())).collect();
    let rows: Vec<InsertedRow> = sqlx::query_as(INSERT)
        .bind(tenants)
        .bind(endpoints)
        .bind(types)
        .bind(commands().map(|command| command.application.as_str()).collect::<Vec<_>>())
        .bind(accepted.iter().map(|accepted| accepted.command_id).collect::<Vec<_>>())
        .bind(payloads)
        .bind(
            commands()
                .map(|command| command.payload.as_ref().is_some_and(Payload::is_text))
                .collect::<Vec<_>>(),
        )
        .bind(commands().map(|command| command.ttl == Ttl::Once).collect::<Vec<_>>())
        .bind(lives.collect::<Vec<_>>())
        .bind(commands().map(|command| command.batch.map(|BatchKey(key)| key)).collect::<Vec<_>>())
        .bind(commands().map(|command| command.response_topic.as_deref()).collect::<Vec<_>>())
        .fetch_all(connection)
        .await?;
    rows.into_iter()
        .map(|row| {
            let lane = super::reads::lane(&row.tenant_id, &row.endpoint_id, &row.command_type)?;
            let name = CommandName { lane, command_id: row.command_id };
            Ok((name, (CommandKey(row.command_key), row.created_at)))
        })
        .collect()
}
