//! Latencies in buckets of constant relative width, so that recording one costs nanoseconds.

use std::time::Duration;

/// Sub-buckets per power of two: a quantile is at most 1/64 above the true value.
const SUB_BITS: u32 = 6;
const SUB: u64 = 1 << SUB_BITS;

/// A histogram of durations with a resolution of a microsecond.
#[derive(Debug, Clone)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max_us: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; index(u64::from(u32::MAX)) + 1], total: 0, max_us: 0 }
    }
}

impl Histogram {
    /// Counts one duration; more than 71 minutes count as that.
    pub(crate) fn record(&mut self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX).min(u64::from(u32::MAX));
        if let Some(count) = self.counts.get_mut(index(micros)) {
            *count += 1;
        }
        self.total += 1;
        self.max_us = self.max_us.max(micros);
    }

    /// Counts what `other` has counted too.
    pub(crate) fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
        self.max_us = self.max_us.max(other.max_us);
    }

    /// The smallest duration that is not exceeded by the share `quantile` (0 to 1) of all, in milliseconds; 0 without any.
    pub(crate) fn quantile_ms(&self, quantile: f64) -> f64 {
        let wanted = (self.total as f64 * quantile).ceil().max(1.0);
        let mut seen = 0_u64;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if *count > 0 && seen as f64 >= wanted {
                return upper(index).min(self.max_us) as f64 / 1000.0;
            }
        }
        0.0
    }

    pub(crate) fn max_ms(&self) -> f64 {
        self.max_us as f64 / 1000.0
    }
}

/// Values below `SUB` have a bucket each; above, each power of two is split into `SUB` buckets.
fn index(micros: u64) -> usize {
    let shift = (64 - micros.leading_zeros()).saturating_sub(SUB_BITS + 1);
    let bucket = u64::from(shift) * SUB + (micros >> shift);
    usize::try_from(bucket).unwrap_or(usize::MAX)
}

/// The largest value of a bucket.
fn upper(index: usize) -> u64 {
    let index = index as u64;
    let shift = (index / SUB).saturating_sub(1);
    ((index - shift * SUB + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket() {
        let mut last = 0;
        for micros in (0..5000).chain([65_535, 65_536, 1_000_000, u64::from(u32::MAX)]) {
            let bucket = index(micros);
            assert!(bucket >= last, "buckets rise with values");
            last = bucket;
            let upper = upper(bucket);
            assert!(
                upper >= micros && upper - micros <= micros / 64,
                "{micros} is in a bucket up to {upper}"
            );
        }
    }

    #[test]
    fn quantiles() {
        let (mut histogram, mut other) = (Histogram::default(), Histogram::default());
        assert_eq!(histogram.quantile_ms(0.5), 0.0);
        for millis in 1..=100 {
            let half = if millis % 2 == 0 { &mut histogram } else { &mut other };
            half.record(Duration::from_millis(millis));
        }
        histogram.add(&other);
        assert!((histogram.quantile_ms(0.5) - 50.0).abs() < 1.0);
        assert!((histogram.quantile_ms(0.99) - 99.0).abs() < 2.0);
        assert_eq!(histogram.quantile_ms(1.0), 100.0);
        assert_eq!(histogram.max_ms(), 100.0);
    }
}
