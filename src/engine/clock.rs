//! The engine's clock: read once per turn, in milliseconds and in timer ticks.
//!
//! The only place that reads time, but for a handler's own. A simulated clock is a number that the
//! simulation moves.

use super::wheel::TICK_MS;
use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

#[derive(Debug)]
enum Source {
    Monotonic(Instant),
    /// Nanoseconds, moved by the simulation.
    Simulated(Rc<Cell<u64>>),
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
        self.now = match &self.source {
            Source::Monotonic(start) => start.elapsed(),
            Source::Simulated(nanoseconds) => Duration::from_nanos(nanoseconds.get()),
        };
    }

    /// Time at the last refresh.
    pub fn now(&self) -> Duration {
        self.now
    }

    /// Timer ticks at the last refresh.
    pub fn tick(&self) -> u64 {
        self.now.as_millis() as u64 / u64::from(TICK_MS)
    }

    /// How long from the last refresh until `tick` begins.
    pub fn until(&self, tick: u64) -> Duration {
        Duration::from_millis(tick * u64::from(TICK_MS)).saturating_sub(self.now)
    }
}

/// Milliseconds as ticks, rounded up, so that no deadline is early.
pub fn ticks(ms: u32) -> u32 {
    ms.div_ceil(TICK_MS) + 1
}
