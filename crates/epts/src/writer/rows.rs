//! The rows of a batch, in the form in which they are sent to the database.

use std::collections::HashMap;

use chrono::{DateTime, Utc};

use crate::books::Tally;
use crate::point::{Micros, Stamp, Values};
use crate::series::EndpointSeries;
use crate::work::Work;

/// A point on its way into the table.
#[derive(Debug, Clone, Copy)]
struct Row<'a> {
    series_id: i64,
    moment: Micros,
    values: &'a Values,
}

/// Rows sorted by key, which all replicas share as the order in which they take locks, and which spares the index.
#[derive(Debug, Default)]
pub(super) struct Rows<'a> {
    rows: Vec<Row<'a>>,
}

/// The columns of rows as arrays, one parameter of a statement each.
#[derive(Debug, Default)]
pub(super) struct Columns {
    pub(super) series_ids: Vec<i64>,
    pub(super) moments: Vec<DateTime<Utc>>,
    pub(super) numbers: Vec<Option<f64>>,
    pub(super) values: Vec<Option<String>>,
}

/// The rows of a batch: those at server time, which must all be new, and those at the devices' times.
pub(super) struct Batch<'a> {
    pub(super) server: Rows<'a>,
    pub(super) device: Rows<'a>,
    /// What was left out because the batch itself holds a later point of the same series and moment, by series.
    pub(super) superseded: HashMap<i64, Tally>,
}

impl<'a> Batch<'a> {
    /// The rows of messages whose series were resolved; none if a series is missing all the same, which must not pass
    /// for stored.
    pub(super) fn new(works: impl Iterator<Item = (&'a Work, &'a EndpointSeries)>) -> Option<Self> {
        let (mut server, mut device) = (Vec::new(), Vec::new());
        for (work, series) in works {
            for sample in &work.samples {
                let rows = match sample.stamp {
                    Stamp::Server(_) => &mut server,
                    Stamp::Device(_) => &mut device,
                };
                let moment = sample.stamp.moment();
                for point in &sample.points {
                    rows.push(Row { series_id: series.id(&point.series)?, moment, values: &point.values });
                }
            }
        }
        let mut superseded = HashMap::new();
        let server = Rows::sorted(server);
        let device = Rows::sorted(device).last_of_each(&mut superseded);
        Some(Self { server, device, superseded })
    }

    pub(super) fn moments(&self) -> impl Iterator<Item = Micros> {
        self.server.rows.iter().chain(&self.device.rows).map(|row| row.moment)
    }
}

impl<'a> Rows<'a> {
    fn sorted(mut rows: Vec<Row<'a>>) -> Self {
        // Stable: of two rows with one key the one that came later stays the later.
        rows.sort_by_key(|row| (row.series_id, row.moment));
        Self { rows }
    }

    /// Keeps the last row of each key, because one statement cannot write a row twice.
    fn last_of_each(self, superseded: &mut HashMap<i64, Tally>) -> Self {
        let mut kept: Vec<Row<'a>> = Vec::with_capacity(self.rows.len());
        for row in self.rows {
            match kept.last_mut() {
                Some(last) if (last.series_id, last.moment) == (row.series_id, row.moment) => {
                    let tally = superseded.entry(row.series_id).or_default();
                    if last.values == row.values {
                        tally.duplicates += 1
                    } else {
                        tally.changed += 1
                    }
                    *last = row;
                }
                _ => kept.push(row),
            }
        }
        Self { rows: kept }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// How many rows each series has.
    pub(super) fn by_series(&self) -> HashMap<i64, u64> {
        let mut counts = HashMap::new();
        for row in &self.rows {
            *counts.entry(row.series_id).or_default() += 1;
        }
        counts
    }

    /// Only the rows of these series.
    pub(super) fn of(&self, is_wanted: impl Fn(i64) -> bool) -> Self {
        Self { rows: self.rows.iter().filter(|row| is_wanted(row.series_id)).copied().collect() }
    }

    pub(super) fn columns(&self) -> serde_json::Result<Columns> {
        let mut columns = Columns {
            series_ids: Vec::with_capacity(self.rows.len()),
            moments: Vec::with_capacity(self.rows.len()),
            numbers: Vec::with_capacity(self.rows.len()),
            values: Vec::with_capacity(self.rows.len()),
        };
        for row in &self.rows {
            let (number, values) = match row.values {
                Values::Number(number) => (Some(*number), None),
                named @ Values::Named(_) => (None, Some(serde_json::to_string(named)?)),
            };
            columns.series_ids.push(row.series_id);
            columns.moments.push(row.moment.datetime());
            columns.numbers.push(number);
            columns.values.push(values);
        }
        Ok(columns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_one_key_the_last_row_stays() {
        let (one, two) = (Values::Number(1.0), Values::Number(2.0));
        let row = |series_id, moment, values| Row { series_id, moment: Micros::new(moment).unwrap(), values };
        let rows = vec![row(2, 5, &one), row(1, 5, &one), row(1, 5, &one), row(1, 5, &two), row(1, 4, &one)];
        let mut superseded = HashMap::new();
        let rows = Rows::sorted(rows).last_of_each(&mut superseded);
        let kept: Vec<_> =
            rows.rows.iter().map(|row| (row.series_id, row.moment.get(), row.values)).collect();
        assert_eq!(kept, [(1, 4, &one), (1, 5, &two), (2, 5, &one)]);
        assert_eq!(superseded, HashMap::from([(1, Tally { stored: 0, duplicates: 1, changed: 1 })]));
        let columns = rows.columns().unwrap();
        assert_eq!(
            (columns.series_ids, columns.numbers),
            (vec![1, 1, 2], vec![Some(1.0), Some(2.0), Some(1.0)])
        );
        assert_eq!(columns.values, [None, None, None]);
    }
}
