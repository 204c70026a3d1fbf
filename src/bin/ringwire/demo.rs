//! Feeds for the page of `ringwire serve`: a price that wanders and a clock. They run only while
//! somebody listens, so that an idle server does nothing.

use crate::board::Board;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Topics that only the server publishes to.
pub const PREFIX: &str = "demo/";
const TICKER: &str = "demo/ticker";
const CLOCK: &str = "demo/clock";

const TICK: Duration = Duration::from_millis(50);
/// The clock strikes at every so manieth tick.
const CLOCK_TICKS: u32 = 5;
/// Who polls shows no other interest than its last request.
const INTEREST: Duration = Duration::from_secs(5);

/// When somebody last asked for one of the feeds.
#[derive(Debug, Default)]
pub struct Interest {
    shown: Mutex<Option<Instant>>,
    changed: Condvar,
}

impl Interest {
    /// Somebody asks.
    pub fn show(&self) {
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.changed.notify_one();
    }

    fn is_recent(&self) -> bool {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.is_some_and(|at| at.elapsed() < INTEREST)
    }

    fn wait(&self) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        *shown = None;
        while shown.is_none() {
            shown = self.changed.wait(shown).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Runs the feeds until the process ends.
pub fn start(board: Arc<Board>) -> io::Result<()> {
    thread::Builder::new().name("demo".into()).spawn(move || {
        loop {
            board.interest.wait();
            run(&board);
        }
    })?;
    Ok(())
}

fn run(board: &Board) {
    let mut price = Price::default();
    let mut tick: u32 = 0;
    while board.interest.is_recent() || board.has_listeners(TICKER) || board.has_listeners(CLOCK) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let milliseconds = now.as_micros() as f64 / 1e3;
        // What is refused is a tick that nobody hears.
        let _ = board.publish_own(TICKER, &format!("{{\"t\":{milliseconds},\"price\":{:.2}}}", price.next()));
        if tick.is_multiple_of(CLOCK_TICKS) {
            let _ = board.publish_own(CLOCK, &format!("{{\"t\":{milliseconds}}}"));
        }
        tick = tick.wrapping_add(1);
        thread::sleep(TICK);
    }
}

/// A random walk that is drawn back to 100.
struct Price {
    value: f64,
    random: u64,
}

impl Default for Price {
    fn default() -> Self {
        Self { value: 100.0, random: 0x9e37_79b9_7f4a_7c15 }
    }
}

impl Price {
    fn next(&mut self) -> f64 {
        // xorshift64: enough for a picture.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let step = (self.random >> 11) as f64 / (1_u64 << 53) as f64 - 0.5;
        self.value += step * 0.6 + (100.0 - self.value) * 0.01;
        self.value
    }
}
