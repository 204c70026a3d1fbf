//! What is shown while a load runs: a line that is redrawn on a terminal, a line per second elsewhere.

use crate::result::Point;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::collections::HashMap;
use std::fmt::Write;
use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};

/// A moment of one load.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    /// The load's name.
    pub name: &'a str,
    /// What happened lately.
    pub point: &'a Point,
    /// Connections asked for.
    pub wanted: u64,
    /// How long the load is expected to last, its ramp aside.
    pub ahead_s: f64,
}

/// Who watches. Called by the conductors of loads that run at once.
pub trait Progress: Send + Sync {
    /// A load goes on.
    fn show(&self, look: &Look<'_>);

    /// It has ended.
    fn end(&self, name: &str);
}

/// As `--quiet` and the terminal ask for.
pub fn for_terminal(quiet: bool) -> Arc<dyn Progress> {
    match quiet {
        true => Arc::new(Silent),
        false if std::io::stderr().is_terminal() => Arc::new(Bars::default()),
        false => Arc::new(Lines::default()),
    }
}

struct Silent;

impl Progress for Silent {
    fn show(&self, _look: &Look<'_>) {}

    fn end(&self, _name: &str) {}
}

#[derive(Default)]
struct Bars {
    all: MultiProgress,
    bars: Mutex<HashMap<String, ProgressBar>>,
}

impl Progress for Bars {
    fn show(&self, look: &Look<'_>) {
        let mut bars = self.bars.lock().unwrap_or_else(PoisonError::into_inner);
        let bar = bars.entry(look.name.to_owned()).or_insert_with(|| {
            let style = ProgressStyle::with_template("{spinner} {prefix:.bold} {msg}");
            let bar = self.all.add(ProgressBar::new_spinner());
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.set_prefix(look.name.to_owned());
            bar
        });
        bar.set_message(line(look));
        bar.tick();
    }

    fn end(&self, name: &str) {
        let mut bars = self.bars.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bar) = bars.remove(name) {
            bar.finish_and_clear();
        }
    }
}

/// Seconds of the last line of each load.
#[derive(Default)]
struct Lines(Mutex<HashMap<String, u64>>);

impl Progress for Lines {
    fn show(&self, look: &Look<'_>) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let second = look.point.t_s as u64;
        if lines.insert(look.name.to_owned(), second) != Some(second) {
            eprintln!("{}: {}", look.name, line(look));
        }
    }

    fn end(&self, name: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }
}

fn line(look: &Look<'_>) -> String {
    let point = look.point;
    let mut out = format!("{:<7} {:5.1} s", point.phase, point.t_s);
    if look.ahead_s > 0.0 {
        let _ = write!(out, " of about {:.0}", look.ahead_s);
    }
    let _ = write!(out, ", {} of {} connections", point.connections, look.wanted);
    if point.handshakes_per_s > 0.0 {
        let _ = write!(out, ", {:.0} handshakes/s", point.handshakes_per_s);
    }
    if point.received_per_s > 0.0 || point.sent_per_s > 0.0 {
        let _ = write!(out, ", {:.0} messages/s", point.received_per_s);
    }
    if let (Some(p50), Some(p99), Some(p999)) = (point.p50_ns, point.p99_ns, point.p999_ns) {
        let [p50, p99, p999] = [p50, p99, p999].map(crate::text::time);
        let _ = write!(out, ", p50 {p50} p99 {p99} p99.9 {p999}");
    }
    let _ = write!(out, ", {} errors", point.errors);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_matters() {
        let point = Point {
            t_s: 3.21,
            phase: "measure".to_owned(),
            connections: 200,
            received_per_s: 123_456.7,
            sent_per_s: 123_456.7,
            p50_ns: Some(81_000),
            p99_ns: Some(2_500_000),
            p999_ns: Some(3_000_000),
            ..Point::default()
        };
        let look = Look { name: "echo", point: &point, wanted: 200, ahead_s: 6.0 };
        assert_eq!(
            line(&look),
            "measure   3.2 s of about 6, 200 of 200 connections, 123457 messages/s, \
             p50 81.0 µs p99 2.50 ms p99.9 3.00 ms, 0 errors"
        );
    }
}
