//! When messages are due in an open loop: at times that do not depend on any answer. Pure: time and
//! seed come in.

use serde::{Deserialize, Serialize};

const NANOS: f64 = 1e9;

/// How arrivals are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Arrivals {
    /// Exponential gaps: independent users.
    Poisson,
    /// Equal gaps: a clock.
    Even,
}

impl Arrivals {
    /// As results name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Poisson => "poisson",
            Self::Even => "even",
        }
    }
}

/// One worker's schedule.
#[derive(Clone, Debug)]
pub struct Pace {
    arrivals: Arrivals,
    gap_ns: f64,
    next_ns: f64,
    random: u64,
}

impl Pace {
    /// A schedule of `per_s` arrivals a second that begins at `start_ns`. `offset` (0 to 1) is the
    /// part of a gap by which the first one comes later, so that several workers take turns.
    pub fn new(start_ns: u64, per_s: f64, arrivals: Arrivals, offset: f64, seed: u64) -> Self {
        let mut pace =
            Self { arrivals, gap_ns: NANOS / per_s, next_ns: start_ns as f64, random: mixed(seed) | 1 };
        pace.next_ns += match arrivals {
            Arrivals::Even => pace.gap_ns * offset,
            Arrivals::Poisson => pace.gap(),
        };
        pace
    }

    /// When the next message is due.
    pub fn next_ns(&self) -> u64 {
        self.next_ns as u64
    }

    /// Takes the next message that is due by now: the time at which it was.
    pub fn take_due(&mut self, now_ns: u64) -> Option<u64> {
        let due_ns = self.next_ns();
        (due_ns <= now_ns).then(|| {
            self.next_ns += self.gap();
            due_ns
        })
    }

    /// Which of `count` is next: a random one for Poisson arrivals, whose sum over connections is
    /// then Poisson as well; `None` lets the caller go round.
    pub fn pick(&mut self, count: usize) -> Option<usize> {
        match self.arrivals {
            Arrivals::Even => None,
            Arrivals::Poisson => Some(((u128::from(self.draw()) * count as u128) >> 64) as usize),
        }
    }

    fn gap(&mut self) -> f64 {
        match self.arrivals {
            Arrivals::Even => self.gap_ns,
            // In (0, 1]: the logarithm is finite.
            Arrivals::Poisson => {
                let uniform = ((self.draw() >> 11) + 1) as f64 / (1_u64 << 53) as f64;
                -uniform.ln() * self.gap_ns
            }
        }
    }

    /// xorshift64*.
    fn draw(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

/// Spreads small seeds over all bits (the finalizer of MurmurHash3).
fn mixed(seed: u64) -> u64 {
    let bits = (seed ^ seed >> 33).wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xff51_afd7_ed55_8ccd);
    (bits ^ bits >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gaps(arrivals: Arrivals) -> Vec<f64> {
        let mut pace = Pace::new(1_000, 10_000.0, arrivals, 0.0, 7);
        let times: Vec<u64> = (0..100_000).map(|_| pace.take_due(u64::MAX).unwrap()).collect();
        times.windows(2).map(|two| (two[1] - two[0]) as f64).collect()
    }

    fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let square = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64;
        (mean, square.sqrt())
    }

    #[test]
    fn even_gaps_are_equal_and_poisson_gaps_exponential() {
        let (mean, deviation) = mean_and_deviation(&gaps(Arrivals::Even));
        assert!((mean - 100_000.0).abs() < 1.0 && deviation < 1.0, "{mean} {deviation}");
        let (mean, deviation) = mean_and_deviation(&gaps(Arrivals::Poisson));
        // An exponential distribution deviates by its mean.
        assert!((mean / 100_000.0 - 1.0).abs() < 0.02, "{mean}");
        assert!((deviation / mean - 1.0).abs() < 0.03, "{deviation} of {mean}");
    }

    #[test]
    fn nothing_is_due_early_and_nothing_is_forgotten() {
        let mut pace = Pace::new(0, 1_000.0, Arrivals::Even, 0.5, 1);
        assert_eq!(pace.take_due(499_999), None);
        assert_eq!(pace.take_due(500_000), Some(500_000));
        assert_eq!(pace.take_due(1_499_999), None);
        // After a stall of ten gaps all ten are due, each at its own time.
        let late: Vec<u64> = std::iter::from_fn(|| pace.take_due(11_000_000)).collect();
        assert_eq!(late.len(), 10);
        assert_eq!((late[0], late[9]), (1_500_000, 10_500_000));
    }

    #[test]
    fn poisson_picks_every_connection_alike() {
        let mut pace = Pace::new(0, 1.0, Arrivals::Poisson, 0.0, 3);
        let mut counts = [0; 10];
        for _ in 0..100_000 {
            counts[pace.pick(10).unwrap()] += 1;
        }
        assert!(counts.iter().all(|count| (9_000..11_000).contains(count)), "{counts:?}");
    }
}
