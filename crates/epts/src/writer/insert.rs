//! The statements that write points.

use std::collections::HashMap;

use sqlx::postgres::PgArguments;
use sqlx::{Connection as _, PgConnection, Postgres};

use super::failure;
use super::rows::{Batch, Columns, Rows};
use crate::books::Tally;

/// Points at server time are new by construction: a plain INSERT, so that one which is not fails and writes nothing.
const INSERT_NEW: &str = r#"
INSERT INTO point (series_id, ts, number, "values")
SELECT series_id, ts, number, named::jsonb
FROM unnest($1::bigint[], $2::timestamptz[], $3::double precision[], $4::text[]) AS row (series_id, ts, number, named)"#;

/// Points at a device's time, which may be there already. Tells how many were not, by series.
const INSERT_MISSING: &str = r#"
WITH written AS (
    INSERT INTO point (series_id, ts, number, "values")
    SELECT series_id, ts, number, named::jsonb
    FROM unnest($1::bigint[], $2::timestamptz[], $3::double precision[], $4::text[]) AS row (series_id, ts, number, named)
    ON CONFLICT (series_id, ts) DO NOTHING
    RETURNING series_id)
SELECT series_id, count(*) FROM written GROUP BY series_id"#;

/// The last value wins. Run after the above, and so tells how many had another value, by series. It goes by the unique
/// index whatever the planner thinks, which an UPDATE with a join would not.
const UPDATE_CHANGED: &str = r#"
WITH written AS (
    INSERT INTO point (series_id, ts, number, "values")
    SELECT series_id, ts, number, named::jsonb
    FROM unnest($1::bigint[], $2::timestamptz[], $3::double precision[], $4::text[]) AS row (series_id, ts, number, named)
    ON CONFLICT (series_id, ts) DO UPDATE SET number = excluded.number, "values" = excluded."values"
    WHERE (point.number, point."values") IS DISTINCT FROM (excluded.number, excluded."values")
    RETURNING series_id)
SELECT series_id, count(*) FROM written GROUP BY series_id"#;

/// What became of the rows of each series.
pub(super) type Written = HashMap<i64, Tally>;

/// What is known of the points of a batch after a failure, over all attempts to write it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Some are in the database, or nobody knows. While this is false certainly none is.
    pub(super) may_be_stored: bool,
}

impl Progress {
    /// Runs a statement that commits: unless the server says that it failed, what it writes may be stored.
    async fn committing<T>(&mut self, statement: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
        let before = std::mem::replace(&mut self.may_be_stored, true);
        let result = statement.await;
        if result.as_ref().is_err_and(failure::leaves_nothing) {
            self.may_be_stored = before;
        }
        result
    }
}

/// Writes a batch so that all of it is committed when this returns.
pub(super) async fn write(
    connection: &mut PgConnection,
    batch: &Batch<'_>,
    progress: &mut Progress,
) -> sqlx::Result<Written> {
    let mut written = batch.superseded.clone();
    match (batch.server.is_empty(), batch.device.is_empty()) {
        (true, true) => {}
        // A statement alone is its own transaction, which spares two round trips.
        (false, true) => {
            progress.committing(insert_new(connection, &batch.server, &mut written)).await?;
        }
        // Two statements may be needed. Without a transaction the first may stay if the second fails; a resend mends that.
        (true, false) => upsert(connection, &batch.device, &mut written, progress).await?,
        // Points at server time must not stay when the rest fails: they would be stored again under another time.
        (false, false) => {
            let mut transaction = connection.begin().await?;
            insert_new(&mut transaction, &batch.server, &mut written).await?;
            // Whatever ends the transaction before its COMMIT is sent undoes it.
            upsert(&mut transaction, &batch.device, &mut written, &mut Progress::default()).await?;
            progress.committing(transaction.commit()).await?;
        }
    }
    Ok(written)
}

async fn insert_new(
    connection: &mut PgConnection,
    rows: &Rows<'_>,
    written: &mut Written,
) -> sqlx::Result<()> {
    bind(INSERT_NEW, rows)?.execute(connection).await?;
    for (series_id, count) in rows.by_series() {
        written.entry(series_id).or_default().stored += count;
    }
    Ok(())
}

async fn upsert(
    connection: &mut PgConnection,
    rows: &Rows<'_>,
    written: &mut Written,
    progress: &mut Progress,
) -> sqlx::Result<()> {
    let new = progress.committing(counts(connection, INSERT_MISSING, rows)).await?;
    let mut conflicting = rows.by_series();
    conflicting.retain(|series_id, count| {
        let new = new.get(series_id).copied().unwrap_or(0);
        written.entry(*series_id).or_default().stored += new;
        *count = count.saturating_sub(new);
        *count > 0
    });
    if conflicting.is_empty() {
        return Ok(());
    }
    let rows = rows.of(|series_id| conflicting.contains_key(&series_id));
    let changed = progress.committing(counts(connection, UPDATE_CHANGED, &rows)).await?;
    for (series_id, count) in conflicting {
        let changed = changed.get(&series_id).copied().unwrap_or(0);
        let tally = written.entry(series_id).or_default();
        tally.changed += changed;
        tally.duplicates += count.saturating_sub(changed);
    }
    Ok(())
}

async fn counts(
    connection: &mut PgConnection,
    sql: &'static str,
    rows: &Rows<'_>,
) -> sqlx::Result<HashMap<i64, u64>> {
    use sqlx::Row as _;
    let counts = bind(sql, rows)?.fetch_all(connection).await?;
    let count = |row: &sqlx::postgres::PgRow| -> sqlx::Result<(i64, u64)> {
        Ok((row.try_get(0)?, u64::try_from(row.try_get::<i64, _>(1)?).unwrap_or(0)))
    };
    counts.iter().map(count).collect()
}

fn bind(
    sql: &'static str,
    rows: &Rows<'_>,
) -> sqlx::Result<sqlx::query::Query<'static, Postgres, PgArguments>> {
    let Columns { series_ids, moments, numbers, values } =
        rows.columns().map_err(|error| sqlx::Error::Encode(error.into()))?;
    Ok(sqlx::query(sql).bind(series_ids).bind(moments).bind(numbers).bind(values))
}
