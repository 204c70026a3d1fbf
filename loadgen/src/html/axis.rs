//! Axes: where a value lies between the ends, and where the marks are. Places are parts of the whole, 0 at
//! the low end and 1 at the high one, whatever the numbers are: a file may say anything.

use super::units::Unit;

/// One axis of a chart.
#[derive(Clone, Debug)]
pub struct Axis {
    low: f64,
    high: f64,
    logarithmic: bool,
    /// What the values count.
    pub unit: Unit,
    /// From low to high.
    pub marks: Vec<Mark>,
}

/// A labelled place of an axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Mark {
    /// From 0 to 1.
    pub at: f64,
    /// What is written there.
    pub label: String,
    /// May be left away where there is little room.
    pub minor: bool,
}

impl Axis {
    /// From zero to a round number that is not below `highest`.
    pub fn linear(highest: f64, unit: Unit) -> Self {
        let highest = if highest.is_finite() && highest > 0.0 { highest } else { 1.0 };
        let step = step(highest / 5.0, unit);
        let steps = (highest / step - 1e-9).ceil().max(1.0);
        let mut axis = Self { low: 0.0, high: steps * step, logarithmic: false, unit, marks: Vec::new() };
        axis.mark((0..=steps as u64).map(|at| at as f64 * step));
        axis
    }

    /// Logarithmic, between numbers that begin with 1, 2 or 5.
    pub fn logarithmic(lowest: f64, highest: f64, unit: Unit) -> Self {
        let lowest = if lowest.is_finite() { lowest.max(1.0) } else { 1.0 };
        let highest = if highest.is_finite() { highest.max(lowest) } else { lowest };
        let mut low = rounds(lowest).rfind(|&round| round <= lowest).unwrap_or(lowest);
        let high = rounds(highest).find(|&round| round >= highest).unwrap_or(highest);
        if low >= high {
            low = high / 10.0;
        }
        let mut axis = Self { low, high, logarithmic: true, unit, marks: Vec::new() };
        let decades = (high / low).log10();
        let leading = |number: f64| (number / 10_f64.powf(number.log10().floor())).round();
        axis.mark(
            (low.log10().floor() as i32..=high.log10().ceil() as i32)
                .flat_map(|exponent| rounds_of(exponent).take(3))
                .filter(|&round| round >= low * 0.999 && round <= high * 1.001)
                .filter(|&round| decades <= 2.4 || leading(round) == 1.0),
        );
        axis
    }

    /// Seconds from zero to `end`, which need not be round.
    pub fn seconds(end: f64) -> Self {
        let end = if end.is_finite() && end > 0.0 { end } else { 1.0 };
        let step = step(end / 8.0, Unit::Seconds);
        let mut axis =
            Self { low: 0.0, high: end, logarithmic: false, unit: Unit::Seconds, marks: Vec::new() };
        axis.mark((0..=(end / step + 1e-9) as u64).map(|at| at as f64 * step));
        for (at, mark) in axis.marks.iter_mut().enumerate() {
            mark.minor = at % 2 == 1;
        }
        axis
    }

    /// Percentiles by log10 of 1/(1−p), as HdrHistogram's curves are drawn: 0 is the shortest value, 1 the
    /// 90th percentile, 2 the 99th.
    pub fn percentiles(highest: f64) -> Self {
        let high = if highest.is_finite() { highest.clamp(1.0, 12.0) } else { 1.0 };
        let mut axis = Self { low: 0.0, high, logarithmic: false, unit: Unit::Count, marks: Vec::new() };
        let mut mark = |exponent: f64, label: String, minor| {
            axis.marks.push(Mark { at: exponent / high, label, minor });
        };
        mark(0.0, "0".to_owned(), false);
        mark(2_f64.log10(), "50%".to_owned(), high > 2.5);
        for nines in 1..=high as usize {
            mark(nines as f64, nines_label(nines), nines > 2 && nines % 2 == 1);
        }
        axis
    }

    /// Where a value lies; outside, at the nearer end.
    pub fn place(&self, value: f64) -> f64 {
        let part = if self.logarithmic {
            (value.max(f64::MIN_POSITIVE) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        if part.is_finite() { part.clamp(0.0, 1.0) } else { 0.0 }
    }

    /// The value at the high end.
    pub fn high(&self) -> f64 {
        self.high
    }

    fn mark(&mut self, values: impl Iterator<Item = f64>) {
        let mark = |value| Mark { at: self.place(value), label: self.unit.mark(value), minor: false };
        self.marks = values.map(mark).collect();
    }
}

/// `90%`, `99%`, `99.9%`.
fn nines_label(nines: usize) -> String {
    match nines {
        1 => "90%".to_owned(),
        2 => "99%".to_owned(),
        _ => format!("99.{}%", "9".repeat(nines - 2)),
    }
}

/// A round distance of marks that is not below `least`.
fn step(least: f64, unit: Unit) -> f64 {
    match unit {
        Unit::Bytes | Unit::BytesPerSecond => least.log2().ceil().exp2().max(1.0),
        Unit::Count => round_up(least).max(1.0),
        _ => round_up(least),
    }
}

fn round_up(number: f64) -> f64 {
    rounds(number).find(|&round| round >= number * (1.0 - 1e-9)).unwrap_or(number)
}

/// 1, 2, 5 and 10 times the power of ten that is not above a positive number.
fn rounds(number: f64) -> impl DoubleEndedIterator<Item = f64> {
    rounds_of(number.log10().floor() as i32)
}

fn rounds_of(exponent: i32) -> impl DoubleEndedIterator<Item = f64> {
    [1.0, 2.0, 5.0, 10.0].into_iter().map(move |round| round * 10_f64.powi(exponent))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<&str> {
        axis.marks.iter().map(|mark| mark.label.as_str()).collect()
    }

    #[test]
    fn a_linear_axis_begins_at_zero_and_ends_at_a_round_number() {
        let axis = Axis::linear(870_000.0, Unit::PerSecond);
        assert_eq!(labels(&axis), ["0/s", "200k/s", "400k/s", "600k/s", "800k/s", "1M/s"]);
        let axis = Axis::linear(700_000_000.0, Unit::Bytes);
        assert_eq!(labels(&axis), ["0 B", "256 MiB", "512 MiB", "768 MiB"]);
        assert_eq!(axis.place(256.0 * 1_048_576.0), 1.0 / 3.0);
        assert_eq!(labels(&Axis::linear(3.0, Unit::Count)), ["0", "1", "2", "3"]);
    }

    #[test]
    fn a_logarithmic_axis_has_marks_at_1_2_5_or_only_at_powers_of_ten() {
        let axis = Axis::logarithmic(30_000.0, 700_000.0, Unit::Nanoseconds);
        assert_eq!(labels(&axis), ["20 µs", "50 µs", "100 µs", "200 µs", "500 µs", "1 ms"]);
        let axis = Axis::logarithmic(30_000.0, 2e9, Unit::Nanoseconds);
        assert_eq!(labels(&axis), ["100 µs", "1 ms", "10 ms", "100 ms", "1 s"]);
        let axis = Axis::logarithmic(1e3, 1e5, Unit::Nanoseconds);
        assert_eq!((axis.place(1e3), axis.place(1e4), axis.place(1e5)), (0.0, 0.5, 1.0));
    }

    #[test]
    fn percentiles_lie_by_their_nines() {
        let axis = Axis::percentiles(4.0);
        assert_eq!(labels(&axis), ["0", "50%", "90%", "99%", "99.9%", "99.99%"]);
        assert_eq!(axis.marks.last().unwrap().at, 1.0);
        assert_eq!(axis.place(2.0), 0.5);
    }

    #[test]
    fn seconds_end_where_the_run_ended() {
        let axis = Axis::seconds(11.5);
        assert_eq!(labels(&axis), ["0 s", "2 s", "4 s", "6 s", "8 s", "10 s"]);
        assert_eq!(axis.place(11.5), 1.0);
    }

    #[test]
    fn no_number_is_too_odd() {
        for odd in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-300, 1e300, 5.0, 10.0] {
            for axis in [
                Axis::linear(odd, Unit::Nanoseconds),
                Axis::linear(odd, Unit::Bytes),
                Axis::linear(odd, Unit::Count),
                Axis::logarithmic(odd, odd, Unit::Nanoseconds),
                Axis::seconds(odd),
                Axis::percentiles(odd),
            ] {
                assert!((1..40).contains(&axis.marks.len()), "{odd}: {axis:?}");
                for value in [odd, 0.0, 1.0, 1e9] {
                    assert!((0.0..=1.0).contains(&axis.place(value)), "{value} on {axis:?}");
                }
            }
        }
    }
}
