//! The timer that ends a driver's long waits.
//!
//! A wait that is timed itself sets a timer of the kernel whenever the thread goes to sleep and takes it back
//! whenever it is woken, which costs half a microsecond. A timerfd(2) that has been set stays set: the waits that end
//! later than it rings need no more than that. So a wait may end early, and for nothing.

use super::sys;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

/// Shorter waits are timed themselves: hardly any other would end within one.
const SHORT: Duration = Duration::from_millis(1);

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Alarm {
    timer: OwnedFd,
    /// When it rings, or a moment before, and how long that was when it was set.
    set_for: Option<(Instant, Duration)>,
}

impl Alarm {
    /// One that is not set.
    ///
    /// # Errors
    /// Those of timerfd_create(2).
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { timer: sys::timerfd()?, set_for: None })
    }

    /// Becomes readable when the alarm rings, and stays so until it is set again.
    pub(super) fn raw_fd(&self) -> RawFd {
        self.timer.as_raw_fd()
    }

    /// Whether it is to ring.
    pub(super) fn is_set(&self) -> bool {
        self.set_for.is_some()
    }

    /// It has rung.
    pub(super) fn rang(&mut self) {
        self.set_for = None;
    }

    /// The timeout that a wait of so long needs beside the alarm, which is set if it has to be.
    #[inline]
    pub(super) fn bound(&mut self, wait: Option<Duration>) -> Option<Duration> {
        match wait {
            Some(long) if long >= SHORT => self.bound_long(long),
            wait => wait,
        }
    }

    fn bound_long(&mut self, wait: Duration) -> Option<Duration> {
        // A wait as long as that for which it was set ends later, whatever the clock says.
        if self.set_for.is_some_and(|(_, set_wait)| set_wait <= wait) {
            return None;
        }
        // For ever, if no clock goes so far.
        let end = Instant::now().checked_add(wait)?;
        if self.set_for.is_some_and(|(set_for, _)| set_for <= end) {
            return None;
        }
        if sys::timerfd_set(&self.timer, wait).is_err() {
            return Some(wait);
        }
        self.set_for = Some((end, wait));
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn is_readable(alarm: &Alarm, wait_ms: i32) -> bool {
        sys::is_readable(alarm.raw_fd(), wait_ms).unwrap()
    }

    #[test]
    fn short_waits_are_timed_themselves() {
        let mut alarm = Alarm::new().unwrap();
        for wait in [None, Some(Duration::ZERO), Some(SHORT - Duration::from_nanos(1))] {
            assert_eq!(alarm.bound(wait), wait);
            assert!(!alarm.is_set());
        }
    }

    #[test]
    fn rings_once_for_all_that_end_later() {
        let mut alarm = Alarm::new().unwrap();
        assert_eq!(alarm.bound(Some(30 * MS)), None);
        let set_for = alarm.set_for;
        assert_eq!(alarm.bound(Some(31 * MS)), None);
        assert_eq!(alarm.bound(Some(3_600_000 * MS)), None);
        assert_eq!(alarm.set_for, set_for, "they end later");
        assert!(is_readable(&alarm, 10_000) && is_readable(&alarm, 0), "it rings, and goes on");
        assert!(set_for.unwrap().0 <= Instant::now(), "and not too early");
        alarm.rang();
        assert!(!alarm.is_set());
    }

    #[test]
    fn who_ends_earlier_sets_it_anew() {
        let mut alarm = Alarm::new().unwrap();
        alarm.bound(Some(3_600_000 * MS));
        assert!(!is_readable(&alarm, 0));
        assert_eq!(alarm.bound(Some(5 * MS)), None);
        assert!(is_readable(&alarm, 10_000));
        alarm.rang();
        alarm.bound(Some(3_600_000 * MS));
        assert!(!is_readable(&alarm, 0), "silent once it is set");
    }

    #[test]
    fn the_longest_wait_has_no_end() {
        let mut alarm = Alarm::new().unwrap();
        assert_eq!(alarm.bound(Some(Duration::MAX)), None);
        assert!(!alarm.is_set());
        // As long as the kernel's clock goes, and longer.
        assert_eq!(alarm.bound(Some(Duration::from_secs(1 << 50))), None);
        assert!(!is_readable(&alarm, 0));
    }
}
