//! The engine's clock: read once per turn, in milliseconds and in timer ticks.
//!
//! The only place that reads time, but for a handler's own. A simulated clock is a number that the
//! simulation moves.

use super::wheel::TICK_MS;
use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// One turn of so many is measured by the [`Stopwatch`].
const SAMPLED_TURNS: u64 = 64;
/// So many messages of it are: the first. Where each turn brings thousands, measuring all took 2 ns of each
/// message's 100.
const SAMPLED_MESSAGES: u32 = 128;

#[derive(Clone, Debug)]
enum Source {
    Monotonic(Instant),
    /// Nanoseconds, moved by the simulation.
    Simulated(Rc<Cell<u64>>),
}

impl Source {
    fn now(&self) -> Duration {
        match self {
            Self::Monotonic(start) => start.elapsed(),
            Self::Simulated(nanoseconds) => Duration::from_nanos(nanoseconds.get()),
        }
    }
}

/// Time since the clock was made, as of the last [`Clock::refresh`].
#[derive(Debug)]
pub struct Clock {
    source: Source,
    now: Duration,
}

impl Clock {
    /// The host's monotonic clock.
    pub fn monotonic() -> Self {
        Self { source: Source::Monotonic(Instant::now()), now: Duration::ZERO }
    }

    /// A clock that shows what `nanoseconds` holds.
    pub fn simulated(nanoseconds: Rc<Cell<u64>>) -> Self {
        let mut clock = Self { source: Source::Simulated(nanoseconds), now: Duration::ZERO };
        clock.refresh();
        clock
    }

    /// Reads the source.
    pub fn refresh(&mut self) {
        self.now = self.source.now();
    }

    /// Time at the last refresh.
    pub fn now(&self) -> Duration {
        self.now
    }

    /// Time since the last refresh, as of now.
    pub fn elapsed(&self) -> Duration {
        self.source.now().saturating_sub(self.now)
    }

    /// A stopwatch that shows this clock's time.
    pub fn stopwatch(&self) -> Stopwatch {
        Stopwatch { source: self.source.clone(), left: 0 }
    }

    /// Timer ticks at the last refresh.
    pub fn tick(&self) -> u64 {
        self.now.as_millis() as u64 / u64::from(TICK_MS)
    }

    /// How long from the last refresh until `tick` begins.
    #[inline]
    pub fn until(&self, tick: u64) -> Duration {
        Duration::from_millis(tick * u64::from(TICK_MS)).saturating_sub(self.now)
    }
}

/// Measures what happens within a turn, in some turns only: reading the clock takes longer than a small
/// message.
#[derive(Debug)]
pub struct Stopwatch {
    source: Source,
    /// Messages that are still to be measured in this turn.
    left: u32,
}

impl Stopwatch {
    /// Turns it on or off for the turn of that number. Which one of each 64 it is changes: where every second turn
    /// brings a message, a fixed one might never do.
    pub fn sample(&mut self, turn: u64) {
        let (round, place) = (turn / SAMPLED_TURNS, turn % SAMPLED_TURNS);
        // Multiples of the golden ratio are far from each other, however many there are.
        let chosen = round.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - SAMPLED_TURNS.ilog2());
        self.left = if place == chosen { SAMPLED_MESSAGES } else { 0 };
    }

    /// Whether what comes next in this turn is measured.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.left > 0
    }

    /// The time at which a message that is measured begins.
    pub fn begin(&mut self) -> Duration {
        self.left = self.left.saturating_sub(1);
        self.source.now()
    }

    /// The time.
    pub fn now(&self) -> Duration {
        self.source.now()
    }
}

/// Milliseconds as ticks, rounded up, so that no deadline is early.
pub fn ticks(ms: u32) -> u32 {
    ms.div_ceil(TICK_MS) + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_the_rhythm_of_messages_some_are_measured() {
        let mut stopwatch = Clock::monotonic().stopwatch();
        for every in 1..=64 {
            for first in 0..every {
                let messages = (0..4_000).map(|number| first + number * every);
                let measured = messages.filter(|&turn| {
                    stopwatch.sample(turn);
                    stopwatch.is_on()
                });
                assert!((20..=160).contains(&measured.count()), "one in {every}, from {first}");
            }
        }
    }
}
