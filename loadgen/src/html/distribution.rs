//! Latency by percentile, from the whole distribution.

use crate::result::Latency;
use crate::times::decode;
use hdrhistogram::Histogram;

/// Points of a whole curve.
const POINTS: usize = 240;

/// A percentile curve.
#[derive(Clone, Debug)]
pub struct Curve {
    /// log10 of 1/(1−p), and nanoseconds; the last is the longest value.
    pub points: Vec<(f64, f64)>,
    /// Only the percentiles that the report names: its histogram could not be read.
    pub coarse: bool,
}

impl Curve {
    /// Of all of these taken together; `None` if they have no values.
    pub fn of(latencies: &[&Latency]) -> Option<Self> {
        let latencies: Vec<&Latency> =
            latencies.iter().copied().filter(|latency| latency.count > 0).collect();
        let first = *latencies.first()?;
        let mut histograms = latencies.iter().map(|latency| decode(&latency.hdr).ok());
        let merged = histograms.next().flatten().and_then(|mut merged| {
            merged.auto(true);
            histograms.try_for_each(|next| merged.add(next?).ok()).map(|()| merged)
        });
        Some(match merged {
            Some(histogram) if !histogram.is_empty() => Self::whole(&histogram),
            _ => Self::coarse(first),
        })
    }

    fn whole(histogram: &Histogram<u64>) -> Self {
        let end = nines(histogram.len());
        let at = |point: usize| {
            let x = end * point as f64 / POINTS as f64;
            (x, histogram.value_at_quantile(1.0 - 10_f64.powf(-x)) as f64)
        };
        let mut points: Vec<(f64, f64)> = (0..POINTS).map(at).collect();
        points.push((end, histogram.max() as f64));
        Self { points, coarse: false }
    }

    fn coarse(latency: &Latency) -> Self {
        let end = nines(latency.count);
        let known = [
            (0.0, latency.min_ns),
            (2_f64.log10(), latency.p50_ns),
            (1.0, latency.p90_ns),
            (2.0, latency.p99_ns),
            (3.0, latency.p999_ns),
            (4.0, latency.p9999_ns),
        ];
        let mut points: Vec<(f64, f64)> =
            known.into_iter().filter(|point| point.0 < end).map(|(x, ns)| (x, ns as f64)).collect();
        points.push((end, latency.max_ns as f64));
        Self { points, coarse: true }
    }
}

/// Where the longest of so many values lies.
fn nines(count: u64) -> f64 {
    (count.max(2) as f64).log10()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::html::fixture;
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    fn latency(seed: u64, count: u64, median_ns: f64) -> Latency {
        serde_json::from_value(fixture::latency(seed, count, median_ns)).unwrap()
    }

    #[test]
    fn the_curve_goes_through_the_percentiles() {
        let latency = latency(1, 100_000, 1e6);
        let curve = Curve::of(&[&latency]).unwrap();
        assert!(!curve.coarse);
        assert_eq!(curve.points.first().unwrap(), &(0.0, latency.min_ns as f64));
        assert_eq!(curve.points.last().unwrap(), &(5.0, latency.max_ns as f64));
        for (x, ns) in [(1.0, latency.p90_ns), (2.0, latency.p99_ns), (3.0, latency.p999_ns)] {
            let at = curve.points.iter().find(|point| (point.0 - x).abs() < 1e-9).unwrap();
            assert_eq!(at.1, ns as f64);
        }
        assert!(curve.points.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1));
    }

    #[test]
    fn several_are_taken_together() {
        let (short, long) = (latency(1, 1_000, 1e6), latency(2, 1_000, 1e9));
        let curve = Curve::of(&[&short, &long]).unwrap();
        assert_eq!(curve.points[0].1, short.min_ns as f64);
        assert_eq!(curve.points.last().unwrap(), &(2_000_f64.log10(), long.max_ns as f64));
    }

    #[test]
    fn an_unreadable_histogram_leaves_the_percentiles_that_are_named() {
        let good = latency(1, 500, 1e6);
        let head = |length: u32| {
            let mut bytes = STANDARD.decode(&good.hdr).unwrap();
            bytes[4..8].copy_from_slice(&length.to_be_bytes());
            STANDARD.encode(bytes)
        };
        // Not base64; too short; a length of 4 GiB that is not there; another cookie.
        let zeros = STANDARD.encode([0; 64]);
        for hdr in ["<>", "", "HISTEw==", &good.hdr[..24], &head(u32::MAX), &zeros] {
            let curve = Curve::of(&[&Latency { hdr: hdr.to_owned(), ..good.clone() }]).unwrap();
            assert!(curve.coarse, "{hdr}");
            assert_eq!(curve.points.len(), 5);
            assert_eq!(curve.points[3], (2.0, good.p99_ns as f64));
        }
        assert!(Curve::of(&[&Latency::default()]).is_none());
    }
}
