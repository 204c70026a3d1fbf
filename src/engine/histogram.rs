//! Times counted in buckets whose bounds double: one core writes, anyone reads.
//!
//! Recording is a shift, two additions and no lock, so that every turn can be counted.

use super::stats::Counter;
use std::time::Duration;

/// Buckets with a bound; one more is for what is longer.
const BOUNDED: usize = 20;
/// The first bound is 2^10 ns, about a microsecond; the last 2^29 ns, half a second.
const FIRST_SHIFT: u32 = 10;

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Histogram {
    counts: [Counter; BOUNDED + 1],
    total_ns: Counter,
}

impl Histogram {
    /// Counts a time; only the owning core may.
    #[inline]
    pub fn record(&self, time: Duration) {
        let ns = time.as_secs() * 1_000_000_000 + u64::from(time.subsec_nanos());
        let bits = u64::BITS - ns.saturating_sub(1).leading_zeros();
        let bucket = (bits.saturating_sub(FIRST_SHIFT) as usize).min(BOUNDED);
        self.counts[bucket].add(1);
        self.total_ns.add(ns);
    }

    /// For each bucket its bound in seconds, and how many times were no longer. The last bucket has
    /// no bound and holds them all.
    pub fn cumulated(&self) -> impl Iterator<Item = (Option<f64>, u64)> + '_ {
        let mut sum = 0;
        self.counts.iter().enumerate().map(move |(bucket, count)| {
            sum += count.get();
            let bound_ns = 1u64 << (FIRST_SHIFT + bucket as u32);
            ((bucket < BOUNDED).then_some(bound_ns as f64 / 1e9), sum)
        })
    }

    /// The sum of all times in seconds.
    pub fn total_seconds(&self) -> f64 {
        self.total_ns.get() as f64 / 1e9
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_the_first_bucket_whose_bound_it_does_not_exceed() {
        for (ns, bound_ns) in
            [(0, 1_024), (1_024, 1_024), (1_025, 2_048), (40_000, 65_536), (1 << 29, 1 << 29)]
        {
            let histogram = Histogram::default();
            histogram.record(Duration::from_nanos(ns));
            let first = histogram.cumulated().find(|(_, count)| *count == 1).unwrap();
            assert_eq!(first.0, Some(bound_ns as f64 / 1e9), "{ns} ns");
        }
    }

    #[test]
    fn what_is_longer_than_all_bounds_is_counted_as_well() {
        let histogram = Histogram::default();
        histogram.record(Duration::from_secs(3));
        histogram.record(Duration::from_millis(1));
        let counts: Vec<_> = histogram.cumulated().collect();
        assert_eq!(counts[BOUNDED], (None, 2));
        assert_eq!(counts[BOUNDED - 1].1, 1);
        assert!((histogram.total_seconds() - 3.001).abs() < 1e-9);
    }
}
