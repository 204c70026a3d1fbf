//! Adaptive spinning: when a shard polls instead of sleeping, and for how long.
//!
//! [`Spin`] is the policy, a state machine that is told the time; [`turn`] applies it to a driver and
//! a clock. The contract: after a window without traffic the shard sleeps, and polls that met nothing
//! take no more than their share of the time.

use super::clock::Clock;
use crate::config::BusyPoll;
use crate::driver::{Driver, Event};
use std::io;
use std::time::Duration;

/// Unspent share is kept for this long, so that a burst after a calm finds polls that are paid for.
const SAVED: Duration = Duration::from_millis(100);
/// After so many windows in a row without traffic only one in [`ONE_IN`] occasions is taken, until one
/// pays: messages that come at a steady pace slower than the window would cost a window each.
const PATIENCE: u32 = 16;
const ONE_IN: u32 = 16;

/// When to poll. Times are those of one monotonic clock.
#[derive(Debug)]
pub struct Spin {
    window: Duration,
    max_vain_percent: u8,
    /// Nanoseconds that may be polled in vain; below a window no window begins.
    credit_ns: i64,
    max_credit_ns: i64,
    earned_until: Duration,
    heard_at: Duration,
    poll_until: Duration,
    /// Polled since traffic was last heard.
    polled: Duration,
    vain_in_a_row: u32,
    counts: SpinCounts,
}

/// What polling has led to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpinCounts {
    /// Times that traffic came while the shard polled.
    pub met: u64,
    /// Times that none came and the shard went to sleep.
    pub vain: u64,
    /// Nanoseconds polled, of both.
    pub polled_ns: u64,
}

impl Spin {
    /// A policy that has heard nothing yet; `None` if the window is 0.
    pub fn new(config: &BusyPoll) -> Option<Self> {
        let window = Duration::from_micros(config.window_us.into());
        let share = SAVED * u32::from(config.max_vain_percent.min(100)) / 100;
        let max_credit_ns = share.max(window).as_nanos() as i64;
        (!window.is_zero()).then(|| Self {
            window,
            max_vain_percent: config.max_vain_percent.min(100),
            credit_ns: max_credit_ns,
            max_credit_ns,
            earned_until: Duration::ZERO,
            heard_at: Duration::ZERO,
            poll_until: Duration::ZERO,
            polled: Duration::ZERO,
            vain_in_a_row: 0,
            counts: SpinCounts::default(),
        })
    }

    /// Traffic came in the turn that began at `now`.
    pub fn heard(&mut self, now: Duration) {
        if !self.polled.is_zero() {
            self.counts.met += 1;
            self.polled = Duration::ZERO;
        }
        if now.saturating_sub(self.heard_at) <= self.window {
            self.vain_in_a_row = 0;
        }
        self.heard_at = now;
        self.earn(now);
        let pays = self.credit_ns >= self.window.as_nanos() as i64;
        let hopeful = self.vain_in_a_row < PATIENCE || self.vain_in_a_row.is_multiple_of(ONE_IN);
        // An occasion that is not taken is one in a row as well.
        self.vain_in_a_row += u32::from(pays && !hopeful);
        self.poll_until = if pays && hopeful { now + self.window } else { Duration::ZERO };
    }

    /// Until when to poll; in the past if the shard is to sleep.
    pub fn poll_until(&self) -> Duration {
        self.poll_until
    }

    /// The shard polled for `time`.
    pub fn polled(&mut self, time: Duration) {
        self.polled += time;
        self.counts.polled_ns += time.as_nanos() as u64;
    }

    /// The shard goes to sleep; if it polled, then in vain.
    pub fn gave_up(&mut self) {
        if self.polled.is_zero() {
            return;
        }
        self.counts.vain += 1;
        self.vain_in_a_row = self.vain_in_a_row.wrapping_add(1);
        self.credit_ns -= self.polled.as_nanos() as i64;
        self.polled = Duration::ZERO;
        self.poll_until = Duration::ZERO;
    }

    /// Counters since the start.
    pub fn counts(&self) -> SpinCounts {
        self.counts
    }

    fn earn(&mut self, now: Duration) {
        let time = now.saturating_sub(self.earned_until).min(SAVED * 100);
        self.earned_until = now;
        let earned_ns = time.as_nanos() as i64 * i64::from(self.max_vain_percent) / 100;
        self.credit_ns = (self.credit_ns + earned_ns).min(self.max_credit_ns);
    }
}

/// A driver's turn that waits up to `wait`, or polls where that is to be and ends without an event when
/// it was in vain, so that the counters can be shown before the shard sleeps. Refreshes the clock.
/// Returns the turn's first event; the others are the driver's to tell.
///
/// # Errors
/// Those of [`Driver::turn`].
pub fn turn<D: Driver>(
    spin: Option<&mut Spin>,
    driver: &mut D,
    clock: &mut Clock,
    wait: Option<Duration>,
) -> io::Result<Option<Event<D::Socket>>> {
    let now = clock.now();
    if let Some(spin) = spin.filter(|_| wait != Some(Duration::ZERO)) {
        if now < spin.poll_until() {
            let due = wait.map_or(Duration::MAX, |wait| now.saturating_add(wait));
            let event = poll(spin, driver, clock, due.min(spin.poll_until()))?;
            if event.is_none() && clock.now() >= spin.poll_until() {
                spin.gave_up();
            }
            return Ok(event);
        }
        spin.gave_up();
    }
    driver.turn(wait)?;
    clock.refresh();
    Ok(driver.next_event())
}

/// Takes turns that do not wait until there is an event or `until` has come.
fn poll<D: Driver>(
    spin: &mut Spin,
    driver: &mut D,
    clock: &mut Clock,
    until: Duration,
) -> io::Result<Option<Event<D::Socket>>> {
    clock.refresh();
    let began = clock.now();
    // The first turn also hands over what was asked for.
    driver.turn(Some(Duration::ZERO))?;
    let mut event = driver.next_event();
    clock.refresh();
    while event.is_none() && clock.now() < until {
        if driver.has_news() {
            driver.turn(Some(Duration::ZERO))?;
            event = driver.next_event();
        } else {
            std::hint::spin_loop();
        }
        clock.refresh();
    }
    spin.polled(clock.now().saturating_sub(began));
    Ok(event)
}
