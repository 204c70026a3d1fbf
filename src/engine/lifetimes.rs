//! When a connection has been open for as long as it may.
//!
//! A side record of four bytes per slot that exists only where a maximum is configured. Each
//! connection's is shortened by a share of its own, so that those that came at once do not have to
//! come back at once.

use super::clock::ticks;
use crate::config::Deadlines;

/// What the connections of one core have left.
#[derive(Debug, Default)]
pub struct Lifetimes {
    /// 0: no maximum.
    most: u32,
    jitter: u32,
    /// The tick at which it ends, by slot.
    ends: Vec<u32>,
}

impl Lifetimes {
    /// For these deadlines.
    pub fn new(deadlines: &Deadlines) -> Self {
        let most = if deadlines.max_lifetime_ms == 0 { 0 } else { ticks(deadlines.max_lifetime_ms) };
        let percent = u64::from(deadlines.lifetime_jitter_percent.min(100));
        Self { most, jitter: (u64::from(most) * percent / 100) as u32, ends: Vec::new() }
    }

    /// Whether there is a maximum.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.most > 0
    }

    /// A connection has opened in the slot.
    pub fn begin(&mut self, index: u32, generation: u32, tick: u32) {
        if !self.is_on() {
            return;
        }
        let index = index as usize;
        if self.ends.len() <= index {
            self.ends.resize(index + 1, 0);
        }
        let share = u64::from(generation.wrapping_mul(0x9e37_79b1));
        let early = (share * u64::from(self.jitter)) >> 32;
        self.ends[index] = tick.wrapping_add(self.most - early as u32);
    }

    /// The tick at which the open connection of a slot ends.
    pub fn end(&self, index: u32) -> Option<u32> {
        self.ends.get(index as usize).copied().filter(|_| self.is_on())
    }

    /// Bytes of side records.
    pub fn held_bytes(&self) -> usize {
        self.ends.capacity() * size_of::<u32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_of_one_moment_end_one_after_the_other() {
        let deadlines =
            Deadlines { max_lifetime_ms: 100_000, lifetime_jitter_percent: 20, ..Deadlines::default() };
        let mut lifetimes = Lifetimes::new(&deadlines);
        let most = ticks(100_000);
        let mut by_tenth = [0; 10];
        for n in 0..10_000u32 {
            lifetimes.begin(n, n + 1, u32::MAX - 5);
            let lasts = lifetimes.end(n).unwrap().wrapping_sub(u32::MAX - 5);
            assert!((most * 8 / 10..=most).contains(&lasts), "{lasts}");
            by_tenth[((most - lasts) * 10 / (most / 5 + 1)) as usize] += 1;
        }
        assert!(by_tenth.iter().all(|count| (800..1_200).contains(count)), "{by_tenth:?}");
    }

    #[test]
    fn without_a_maximum_there_are_no_records() {
        let mut lifetimes = Lifetimes::new(&Deadlines::default());
        lifetimes.begin(1_000_000, 7, 1);
        assert_eq!((lifetimes.end(1_000_000), lifetimes.held_bytes()), (None, 0));
    }
}
