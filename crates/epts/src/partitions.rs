//! Partitions of the points by time: made when a point needs one, dropped when all of it is older than the retention.
//!
//! A partition holds whole UTC days. Recent time is cut into blocks of `partition_days`. A device may also bring data that
//! is years old; what lies more than a month back goes by calendar years, or months where a year is partly taken, so that
//! old data never makes more than one partition a year. Partitions never overlap: what is free is looked up under a lock
//! that all replicas respect, and so `partition_days` may be changed at any time.

use std::ops::Range;

use chrono::{DateTime, Datelike as _, Months, NaiveDate};
use parking_lot::RwLock;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, PgPool};

use crate::point::Micros;

const DAY_MICROS: i64 = 86_400_000_000;
/// Data that lies further back than this when its partition is made counts as old.
const RECENT_DAYS: i64 = 31;
/// A partition is kept a day longer than the retention, so that nothing that was just accepted finds it gone.
const GRACE_DAYS: i64 = 1;
/// Keys of advisory locks, in this database only: for making partitions, and for dropping them.
const MAKING_LOCK: i64 = 0x6570_7473_0001;
const DROPPING_LOCK: i64 = 0x6570_7473_0002;

/// Whole days since 1970, the end not included.
type DayRange = Range<i64>;

/// The partitions that are known to exist.
pub(crate) struct Partitions {
    partition_days: i64,
    retention_days: i64,
    known: RwLock<Vec<DayRange>>,
}

impl Partitions {
    pub(crate) fn new(partition_days: u32, retention_days: u32) -> Self {
        let (partition_days, retention_days) = (i64::from(partition_days.max(1)), i64::from(retention_days));
        Self { partition_days, retention_days, known: RwLock::default() }
    }

    /// The days of these moments for which no partition is known.
    pub(crate) fn missing(&self, moments: impl Iterator<Item = Micros>) -> Vec<i64> {
        let known = self.known.read();
        let mut missing: Vec<i64> = Vec::new();
        let mut covered: DayRange = 0..0;
        for moment in moments {
            let day = day(moment);
            if covered.contains(&day) || missing.contains(&day) {
                continue;
            }
            match known.iter().rev().find(|range| range.contains(&day)) {
                Some(range) => covered = range.clone(),
                None => missing.push(day),
            }
        }
        missing
    }

    /// Forgets what is known, after the database has shown that it is wrong.
    pub(crate) fn forget(&self) {
        self.known.write().clear();
    }

    /// Makes partitions for these days, unless another replica has.
    pub(crate) async fn make(&self, connection: &mut PgConnection, days: &[i64]) -> sqlx::Result<()> {
        let today = day(Micros::now());
        let mut transaction = connection.begin().await?;
        sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(MAKING_LOCK).execute(&mut *transaction).await?;
        let mut ranges = attached(&mut transaction).await?;
        for day in days {
            if ranges.iter().any(|range| range.contains(day)) {
                continue;
            }
            let range = choose(*day, today, self.partition_days, &ranges);
            let Some((name, from, to)) = describe(&range) else { continue };
            // Made apart and then attached, so that nobody who reads or writes the points has to wait. Vacuumed early,
            // because reads get by without the table only where it has been. The text holds nothing but dates.
            let sql = format!(
                "CREATE TABLE {name} (LIKE point INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES)
                     WITH (autovacuum_vacuum_insert_scale_factor = 0.05);
                 ALTER TABLE point ATTACH PARTITION {name} FOR VALUES FROM ('{from} 00:00:00+00') TO ('{to} 00:00:00+00')"
            );
            transaction.execute(AssertSqlSafe(sql)).await?;
            tracing::info!(partition = name, "made a partition");
            ranges.push(range);
        }
        transaction.commit().await?;
        *self.known.write() = ranges;
        Ok(())
    }

    /// Makes the partitions that will be needed soon and drops those that are outdated. Returns how many it dropped.
    pub(crate) async fn maintain(&self, pool: &PgPool, ahead_ms: u32) -> sqlx::Result<usize> {
        let now = Micros::now();
        let ahead = Micros::new(now.get() + i64::from(ahead_ms) * 1_000).unwrap_or(now);
        let mut connection = pool.acquire().await?;
        let soon: Vec<i64> = (day(now)..=day(ahead)).collect();
        let missing = self.missing(soon.iter().filter_map(|day| Micros::new(day * DAY_MICROS)));
        if !missing.is_empty() {
            self.make(&mut connection, &missing).await?;
        }
        drop(connection);
        if self.retention_days == 0 { Ok(0) } else { self.drop_outdated(pool, day(now)).await }
    }

    async fn drop_outdated(&self, pool: &PgPool, today: i64) -> sqlx::Result<usize> {
        let cutoff = today - self.retention_days - GRACE_DAYS;
        // The connection is closed afterwards, whatever happens, and its lock and settings end with it.
        let mut connection = pool.acquire().await?.detach();
        let dropped = drop_before(&mut connection, cutoff).await;
        drop(connection.close().await);
        if dropped.as_ref().is_ok_and(|count| *count > 0) {
            self.known.write().retain(|range| range.end > cutoff);
        }
        dropped
    }
}

pub(crate) fn day(moment: Micros) -> i64 {
    moment.get().div_euclid(DAY_MICROS)
}

/// The partitions that take rows.
async fn attached(connection: &mut PgConnection) -> sqlx::Result<Vec<DayRange>> {
    let names: Vec<String> = sqlx::query_scalar(
        "SELECT relname::text FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
         WHERE inhparent = 'point'::regclass AND NOT inhdetachpending",
    )
    .fetch_all(connection)
    .await?;
    let mut ranges: Vec<DayRange> = names.iter().filter_map(|name| parse(name)).collect();
    ranges.sort_by_key(|range| range.start);
    Ok(ranges)
}

async fn drop_before(connection: &mut PgConnection, cutoff: i64) -> sqlx::Result<usize> {
    let is_mine: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)")
        .bind(DROPPING_LOCK)
        .fetch_one(&mut *connection)
        .await?;
    if !is_mine {
        return Ok(0);
    }
    // Detaching waits for all queries that began before it.
    connection.execute("SET statement_timeout = '10min'").await?;
    // A partition whose removal was interrupted is detached halfway, or detached and still there.
    let tables: Vec<(String, Option<bool>)> = sqlx::query_as(
        "SELECT relname::text, inhdetachpending FROM pg_class LEFT JOIN pg_inherits ON inhrelid = pg_class.oid
         WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r' AND relname ~ '^point_[0-9]{8}_[0-9]{8}$'
         ORDER BY relname",
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut dropped = 0;
    for (name, detaching) in tables {
        if parse(&name).is_none_or(|range| range.end > cutoff) {
            continue;
        }
        if let Some(is_pending) = detaching {
            let how = if is_pending { "FINALIZE" } else { "CONCURRENTLY" };
            let sql = format!("ALTER TABLE point DETACH PARTITION {name} {how}");
            connection.execute(AssertSqlSafe(sql)).await?;
        }
        connection.execute(AssertSqlSafe(format!("DROP TABLE {name}"))).await?;
        tracing::info!(partition = name, "dropped a partition that is older than the retention");
        dropped += 1;
    }
    Ok(dropped)
}

/// The partition to make for a day that lies in none of `taken`.
fn choose(day: i64, today: i64, partition_days: i64, taken: &[DayRange]) -> DayRange {
    let block = day.div_euclid(partition_days) * partition_days;
    let recent = today - RECENT_DAYS;
    let old = [year(day), month(day)].into_iter().flatten().filter(|range| range.end <= recent);
    let mut choices = old.chain(std::iter::once(block..block + partition_days));
    let is_free =
        |range: &DayRange| taken.iter().all(|other| range.end <= other.start || other.end <= range.start);
    choices.find(is_free).unwrap_or(day..day + 1)
}

fn year(day: i64) -> Option<DayRange> {
    let first = date(day)?.with_ordinal(1)?;
    Some(number(first)..number(first.checked_add_months(Months::new(12))?))
}

fn month(day: i64) -> Option<DayRange> {
    let first = date(day)?.with_day(1)?;
    Some(number(first)..number(first.checked_add_months(Months::new(1))?))
}

fn date(day: i64) -> Option<NaiveDate> {
    DateTime::from_timestamp(day.checked_mul(86_400)?, 0).map(|moment| moment.date_naive())
}

fn number(date: NaiveDate) -> i64 {
    date.and_time(chrono::NaiveTime::MIN).and_utc().timestamp().div_euclid(86_400)
}

/// The name of a partition and its first day and end as dates: `point_20260101_20260108`.
fn describe(range: &DayRange) -> Option<(String, String, String)> {
    let (from, to) = (date(range.start)?, date(range.end)?);
    let name = format!("point_{}_{}", from.format("%Y%m%d"), to.format("%Y%m%d"));
    Some((name, from.format("%Y-%m-%d").to_string(), to.format("%Y-%m-%d").to_string()))
}

fn parse(name: &str) -> Option<DayRange> {
    let (from, to) = name.strip_prefix("point_")?.split_once('_')?;
    let day = |text: &str| NaiveDate::parse_from_str(text, "%Y%m%d").ok().map(number);
    Some(day(from)?..day(to)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(date: &str) -> i64 {
        number(date.parse().unwrap())
    }

    fn shown(range: &DayRange) -> String {
        describe(range).unwrap().0
    }

    #[test]
    fn recent_days_go_by_blocks_and_old_ones_by_years() {
        let today = at("2026-11-20");
        assert_eq!(shown(&choose(today, today, 1, &[])), "point_20261120_20261121");
        assert_eq!(shown(&choose(today, today, 7, &[])), "point_20261119_20261126");
        assert_eq!(shown(&choose(at("2019-04-26"), today, 7, &[])), "point_20190101_20200101");
        assert_eq!(shown(&choose(at("2026-03-05"), today, 7, &[])), "point_20260301_20260401");
        let taken = vec![parse("point_20250601_20250608").unwrap()];
        assert_eq!(shown(&choose(at("2025-02-03"), today, 7, &taken)), "point_20250201_20250301");
        assert_eq!(shown(&choose(at("2025-06-20"), today, 7, &taken)), "point_20250619_20250626");
        let crowded = [at("2025-06-01")..at("2025-06-20"), at("2025-06-21")..at("2025-06-30")];
        assert_eq!(shown(&choose(at("2025-06-20"), today, 7, &crowded)), "point_20250620_20250621");
    }

    #[test]
    fn a_name_tells_its_days() {
        let range = at("2026-01-01")..at("2026-01-08");
        assert_eq!(parse(&shown(&range)), Some(range));
        for other in ["point", "point_x_y", "points_20260101_20260108", "point_20260101"] {
            assert_eq!(parse(other), None);
        }
    }

    #[test]
    fn only_days_without_a_partition_are_missing() {
        let partitions = Partitions::new(7, 0);
        *partitions.known.write() = vec![0..7, 14..21];
        let moments = [1, 8, 8, 15, 30, 2].map(|day| Micros::new(day * DAY_MICROS + 5).unwrap());
        assert_eq!(partitions.missing(moments.into_iter()), [8, 30]);
        partitions.forget();
        assert_eq!(partitions.missing(moments.into_iter()), [1, 8, 15, 30, 2]);
    }

    proptest! {
        #[test]
        fn partitions_never_overlap_and_old_data_makes_few(days in prop::collection::vec((0_i64..20_000, 1_i64..30), 1..60)) {
            let today = 20_000;
            let mut taken: Vec<DayRange> = Vec::new();
            for (day, partition_days) in days {
                if taken.iter().any(|range| range.contains(&day)) {
                    continue;
                }
                let range = choose(day, today, partition_days, &taken);
                prop_assert!(range.contains(&day));
                prop_assert!(taken.iter().all(|other| range.end <= other.start || other.end <= range.start));
                taken.push(range);
            }
        }
    }
}
