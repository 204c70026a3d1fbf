//! When silent connections are pinged: spread over time, and some at once.
//!
//! Plain arithmetic on ticks. The contract: a ping is due no later than `idle_ms` after the last
//! sign of life, and no sooner than half of that.
//!
//! Connections that came at once would fall silent at once, and be pinged at once for ever. So each
//! slot has a phase of its own, and what `last_seen` asks for is moved forward to it. On the other
//! hand a turn for every ping and one for its pong cost more than the ping: with 200,000 connections on
//! 56 shards, 5,900 pings per second took 26 µs of processor time each, and 13 to 16 where about 64
//! connections share a turn. So phases are rounded to a step, which grows as connections become fewer.

use super::clock::ticks;

/// Below it pings come exactly when they are due.
const MIN_SPREAD_MS: u32 = 10_000;
/// About so many connections are pinged in one turn.
const BATCH: u64 = 64;
/// A ping comes early by at most this part of the time for the sake of its batch.
const MAX_STEP_PART: u32 = 64;

/// A shard's schedule of pings.
#[derive(Debug)]
pub struct Heartbeat {
    /// Silence after which a ping is due at the latest, in ticks.
    idle: u32,
    /// Every slot has one phase in each; 0 without spreading. A multiple of `step`.
    period: u32,
    /// Phases are multiples of it, a power of two.
    step: u32,
    max_step: u32,
    /// Shards that share a core take turns: this one's part of a step, of 256.
    offset: u32,
    /// The schedule fits numbers of connections with so many bits.
    bits: u32,
}

impl Heartbeat {
    /// The schedule of a shard without connections.
    pub fn new(idle_ms: u32, shard: u8) -> Self {
        let idle = ticks(idle_ms);
        let max_step = 1 << (idle / MAX_STEP_PART).max(1).ilog2();
        let period = if idle_ms >= MIN_SPREAD_MS { (idle / 2) & !(max_step - 1) } else { 0 };
        // Multiples of the golden ratio are far from each other, however many there are.
        let offset = u32::from(shard).wrapping_mul(159) % 256;
        Self { idle, period, step: max_step, max_step, offset, bits: 0 }
    }

    /// To be told of the number of connections when it may have changed.
    #[inline]
    pub fn resize(&mut self, connections: usize) {
        let bits = usize::BITS - connections.leading_zeros();
        if bits != self.bits {
            self.bits = bits;
            let step = ((u64::from(self.idle) * BATCH) >> bits).clamp(1, self.max_step.into());
            self.step = 1 << step.ilog2();
            if self.period > 0 {
                self.period = (self.idle / 2) & !(self.step - 1);
            }
        }
    }

    /// The tick at which the connection of `slot` is to be pinged.
    pub fn due(&self, slot: u32, last_seen: u32) -> u32 {
        let latest = last_seen.wrapping_add(self.idle);
        if self.period == 0 {
            return latest;
        }
        let hash = slot.wrapping_mul(0x9e37_79b1);
        let phase = ((u64::from(hash) * u64::from(self.period)) >> 32) as u32 & !(self.step - 1);
        let phase = phase + ((self.offset * self.step) >> 8);
        latest.wrapping_sub(latest.wrapping_sub(phase) % self.period)
    }

    /// When to look, after the tick `now`, whether the ping of the tick `sent` has been answered, as a pong moves no
    /// timer: when the next ping would be due, and then once in each `idle_ms`, which must not be 0.
    pub fn look(&self, slot: u32, sent: u32, now: u32) -> u32 {
        let next = self.due(slot, sent);
        if next.wrapping_sub(now) as i32 > 0 {
            return next;
        }
        now.wrapping_add(self.idle - now.wrapping_sub(sent) % self.idle)
    }

    /// By how much a ping may come early, in ticks.
    pub fn spread(&self) -> u32 {
        self.period
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_ping_is_due_in_the_second_half_of_the_time() {
        for idle_ms in [MIN_SPREAD_MS, 30_000, 170_000, 24 * 3_600_000] {
            for (shard, connections) in [(0, 1), (3, 20_000), (255, 16 << 20)] {
                let mut heartbeat = Heartbeat::new(idle_ms, shard);
                heartbeat.resize(connections);
                let idle = ticks(idle_ms);
                for slot in (0..2_000).map(|n: u32| n.wrapping_mul(8_111)) {
                    let last_seen = slot.wrapping_mul(12_345);
                    let ahead = heartbeat.due(slot, last_seen).wrapping_sub(last_seen);
                    assert!(ahead >= idle / 2 && ahead <= idle, "{idle_ms} {connections} {slot}: {ahead}");
                }
            }
        }
    }

    #[test]
    fn short_deadlines_are_kept_to_the_tick() {
        let heartbeat = Heartbeat::new(500, 1);
        assert_eq!(heartbeat.due(7, 1_000), 1_000 + ticks(500));
        assert_eq!(heartbeat.due(7, u32::MAX), ticks(500) - 1);
    }

    #[test]
    fn an_answer_is_looked_for_when_the_next_ping_is_due_and_then_again() {
        for idle_ms in [500, 170_000] {
            let (heartbeat, idle) = (Heartbeat::new(idle_ms, 3), ticks(idle_ms));
            for sent in [0, 77_777, u32::MAX - 5] {
                let next = heartbeat.due(7, sent);
                assert_eq!(heartbeat.look(7, sent, sent), next);
                assert_eq!(heartbeat.look(7, sent, next.wrapping_sub(1)), next);
                assert_eq!(heartbeat.look(7, sent, sent.wrapping_add(idle)), sent.wrapping_add(2 * idle));
            }
        }
    }

    #[test]
    fn connections_that_came_at_once_are_pinged_in_turn_and_some_together() {
        let mut heartbeat = Heartbeat::new(170_000, 9);
        heartbeat.resize(20_000);
        let mut batches: BTreeMap<u32, u32> = BTreeMap::new();
        for slot in 0..20_000 {
            *batches.entry(heartbeat.due(slot, 5_000)).or_default() += 1;
        }
        // 85 s in steps of 256 ms.
        assert!((300..400).contains(&batches.len()), "{} batches", batches.len());
        assert!(batches.values().all(|count| (30..=90).contains(count)), "{batches:?}");
    }

    #[test]
    fn a_silent_connection_keeps_its_phase() {
        let mut heartbeat = Heartbeat::new(170_000, 200);
        heartbeat.resize(18_000);
        let first = heartbeat.due(77, 40_000);
        // Its pong comes some ticks later.
        let mut due = first;
        for round in 1..100 {
            due = heartbeat.due(77, due + round % 3);
            assert_eq!(due, first + round * 2 * heartbeat.period);
        }
        assert!(2 * heartbeat.period > ticks(170_000) * 99 / 100);
    }
}
