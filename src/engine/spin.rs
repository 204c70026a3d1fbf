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

#[cfg(test)]
mod tests {
    use super::*;

    const fn us(us: u64) -> Duration {
        Duration::from_micros(us)
    }

    fn spin(window_us: u32, max_vain_percent: u8) -> Spin {
        Spin::new(&BusyPoll { window_us, max_vain_percent }).unwrap()
    }

    /// Traffic at each of `times`; between, the shard polls as it is told. The share of polls in vain.
    fn vain_share(spin: &mut Spin, times: impl Iterator<Item = Duration>) -> f64 {
        let (mut vain, mut end) = (Duration::ZERO, Duration::ZERO);
        let mut times = times.peekable();
        while let Some(now) = times.next() {
            spin.heard(now);
            let Some(next) = times.peek() else { break };
            let until = spin.poll_until().min(*next);
            if until > now {
                spin.polled(until - now);
            }
            if until < *next {
                vain += until.saturating_sub(now);
                spin.gave_up();
            }
            end = *next;
        }
        vain.as_secs_f64() / end.as_secs_f64()
    }

    #[test]
    fn a_window_follows_traffic_and_nothing_else() {
        let mut spin = spin(50, 25);
        assert_eq!(spin.poll_until(), Duration::ZERO);
        spin.heard(us(1_000));
        assert_eq!(spin.poll_until(), us(1_050));
        spin.polled(us(20));
        spin.heard(us(1_020));
        assert_eq!(spin.poll_until(), us(1_070));
        spin.polled(us(50));
        spin.gave_up();
        assert_eq!(spin.poll_until(), Duration::ZERO);
        // Sleeping on, as after a timer, is no second window.
        spin.gave_up();
        assert_eq!(spin.counts(), SpinCounts { met: 1, vain: 1, polled_ns: 70_000 });
    }

    #[test]
    fn frequent_traffic_is_always_polled_for() {
        let mut spin = spin(50, 25);
        let share = vain_share(&mut spin, (1..100_000).map(|n| us(n * 30)));
        assert_eq!(share, 0.0);
        assert_eq!((spin.counts().met, spin.counts().vain), (99_998, 0));
    }

    #[test]
    fn a_steady_pace_slower_than_the_window_costs_little() {
        let mut spin = spin(50, 25);
        let share = vain_share(&mut spin, (1..100_000).map(|n| us(n * 60)));
        // One window in 16 gaps of 60 µs.
        assert!(share < 0.06, "{share}");
        assert!(spin.counts().vain > 1_000, "it is tried again and again");
        // And pays as soon as the pace quickens.
        let (start, met) = (100_000 * 60, spin.counts().met);
        vain_share(&mut spin, (0..1_000).map(|n| us(start + n * 30)));
        assert!(spin.counts().met - met > 980, "{:?}", spin.counts());
    }

    #[test]
    fn polls_in_vain_keep_to_their_share() {
        for percent in [0, 10, 25, 100] {
            let mut spin = spin(50, percent);
            // The worst there is: nine that meet the next message for one that does not, so that it is
            // always hopeful, with gaps that leave nothing but polling.
            let mut now = Duration::ZERO;
            let times = std::iter::from_fn(|| {
                let n = now.as_nanos() / 7;
                now += if n.is_multiple_of(2) { us(1) } else { us(51) };
                Some(now)
            });
            let share = vain_share(&mut spin, times.take(200_000));
            let most = f64::from(percent) / 100.0 + 0.02;
            assert!(share <= most, "{share} of {percent} %");
        }
    }

    #[test]
    fn an_unspent_share_is_saved_for_a_while_only() {
        let mut spin = spin(1_000, 10);
        // A minute of calm buys 10 % of 100 ms: ten windows.
        let start = Duration::from_secs(60);
        vain_share(&mut spin, (0..15).map(|n| start + us(n * 1_001)));
        assert_eq!(spin.counts().vain, 11, "and the eleventh out of what was earned meanwhile");
    }

    #[test]
    fn a_window_of_0_is_none() {
        assert!(Spin::new(&BusyPoll { window_us: 0, ..BusyPoll::default() }).is_none());
    }
}
