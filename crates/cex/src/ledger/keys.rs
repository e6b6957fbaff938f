//! Idempotency keys of invocations: the same key is the same command.

use std::collections::{BTreeMap, HashMap, HashSet};

use ids::{CommandType, EndpointId, TenantId};
use sqlx::PgConnection;

use crate::domain::{CommandKey, CommandName, Idempotency, Lane, NewCommand};

/// Waits for others who are about to write the same key.
const TAKE: &str = "
INSERT INTO idempotency_keys (tenant_id, idempotency_key, digest)
SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[]) AS g (tenant_id, idempotency_key, digest) ORDER BY 1, 2
ON CONFLICT DO NOTHING RETURNING tenant_id, idempotency_key";

const READ: &str = "
SELECT k.tenant_id, k.idempotency_key, k.digest, c.endpoint_id, c.command_type, c.command_id
FROM unnest($1::text[], $2::text[]) AS g (tenant_id, idempotency_key)
JOIN idempotency_keys k USING (tenant_id, idempotency_key) LEFT JOIN commands c USING (command_key)";

const BIND: &str = "
UPDATE idempotency_keys k SET command_key = g.command_key
FROM unnest($1::text[], $2::text[], $3::bigint[]) AS g (tenant_id, idempotency_key, command_key)
WHERE k.tenant_id = g.tenant_id AND k.idempotency_key = g.idempotency_key";

const FREE: &str = "
DELETE FROM idempotency_keys k USING unnest($1::text[], $2::text[]) AS g (tenant_id, idempotency_key)
WHERE k.tenant_id = g.tenant_id AND k.idempotency_key = g.idempotency_key";

/// What a key means for a command that is to be invoked.
#[derive(Debug, Clone)]
pub(super) enum Keyed {
    /// It is new, or has no key.
    New,
    /// It was invoked before.
    Repeats(CommandName),
    /// It is the same as an earlier one of these.
    SameAs(usize),
    /// The key is another request's.
    Reused,
}

#[derive(sqlx::FromRow)]
struct KeyRow {
    tenant_id: String,
    idempotency_key: String,
    digest: Vec<u8>,
    endpoint_id: Option<String>,
    command_type: Option<String>,
    command_id: Option<i32>,
}

/// A key within its tenant.
type Key<'a> = (&'a str, &'a str);

fn key<'a>(command: &'a NewCommand) -> Option<(Key<'a>, &'a Idempotency)> {
    let idempotency = command.idempotency.as_ref()?;
    Some(((command.lane.tenant.as_str(), idempotency.key.as_str()), idempotency))
}

fn columns<'a>(keys: impl Iterator<Item = Key<'a>>) -> (Vec<&'a str>, Vec<&'a str>) {
    keys.unzip()
}

/// Takes the keys of these commands, as far as they are free, and tells what each means. None: a key that was taken is
/// free again in this moment.
pub(super) async fn take(
    connection: &mut PgConnection,
    commands: &[&NewCommand],
) -> sqlx::Result<Option<Vec<Keyed>>> {
    let mut keyed = vec![Keyed::New; commands.len()];
    let mut firsts: BTreeMap<Key<'_>, (usize, &Idempotency)> = BTreeMap::new();
    for (index, command) in commands.iter().enumerate() {
        let Some((key, idempotency)) = key(command) else { continue };
        let (first, known) = *firsts.entry(key).or_insert((index, idempotency));
        if first != index {
            let meaning =
                if known.digest == idempotency.digest { Keyed::SameAs(first) } else { Keyed::Reused };
            set(&mut keyed, index, meaning);
        }
    }
    if firsts.is_empty() {
        return Ok(Some(keyed));
    }
    let (tenants, keys) = columns(firsts.keys().copied());
    let digests: Vec<&[u8]> = firsts.values().map(|(_, idempotency)| idempotency.digest.as_slice()).collect();
    let free: Vec<(String, String)> =
        sqlx::query_as(TAKE).bind(tenants).bind(keys).bind(digests).fetch_all(&mut *connection).await?;
    let free: HashSet<Key<'_>> = free.iter().map(|(tenant, key)| (&**tenant, &**key)).collect();
    let taken = || firsts.iter().filter(|(key, _)| !free.contains(*key));
    if taken().next().is_none() {
        return Ok(Some(keyed));
    }
    let (tenants, keys) = columns(taken().map(|(key, _)| *key));
    let rows: Vec<KeyRow> = sqlx::query_as(READ).bind(tenants).bind(keys).fetch_all(connection).await?;
    let rows: HashMap<Key<'_>, &KeyRow> =
        rows.iter().map(|row| ((&*row.tenant_id, &*row.idempotency_key), row)).collect();
    for (key, (index, idempotency)) in taken() {
        let Some(row) = rows.get(key) else { return Ok(None) };
        let command = row.command().filter(|_| row.digest == idempotency.digest);
        let meaning = command.map_or(Keyed::Reused, Keyed::Repeats);
        set(&mut keyed, *index, meaning);
    }
    Ok(Some(keyed))
}

fn set(keyed: &mut [Keyed], index: usize, meaning: Keyed) {
    if let Some(slot) = keyed.get_mut(index) {
        *slot = meaning;
    }
}

impl KeyRow {
    /// The command that was invoked under the key; none when it was a batch.
    fn command(&self) -> Option<CommandName> {
        let lane = Lane {
            tenant: TenantId::parse(&self.tenant_id).ok()?,
            endpoint_id: EndpointId::parse(self.endpoint_id.as_deref()?).ok()?,
            command_type: CommandType::parse(self.command_type.as_deref()?).ok()?,
        };
        Some(CommandName { lane, command_id: self.command_id? })
    }
}

/// Writes down which command was invoked under each key.
pub(super) async fn bind(
    connection: &mut PgConnection,
    invoked: &[(&NewCommand, CommandKey)],
) -> sqlx::Result<()> {
    let keys = || invoked.iter().filter_map(|(command, row)| Some((key(command)?.0, row.0)));
    if keys().next().is_none() {
        return Ok(());
    }
    let (tenants, names) = columns(keys().map(|(key, _)| key));
    let rows: Vec<i64> = keys().map(|(_, row)| row).collect();
    sqlx::query(BIND).bind(tenants).bind(names).bind(rows).execute(connection).await?;
    Ok(())
}

/// Frees the keys of commands that are not invoked.
pub(super) async fn free(connection: &mut PgConnection, refused: &[&NewCommand]) -> sqlx::Result<()> {
    let (tenants, names) = columns(refused.iter().filter_map(|command| Some(key(command)?.0)));
    if !tenants.is_empty() {
        sqlx::query(FREE).bind(tenants).bind(names).execute(connection).await?;
    }
    Ok(())
}
