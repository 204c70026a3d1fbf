//! How fast a connection may send: one [`Pace`] for messages and one for bytes.
//!
//! A side record of 16 bytes per slot that exists only where rates are configured. The contract: a
//! connection that is paused is on the list of those to be resumed, once.

use super::Core;
use super::events::event;
use super::party::Party;
use super::receive::Outcome;
use super::slot::{Flags, Phase};
use crate::config::{OverRate, Rates};
use crate::driver::{Driver, Token};
use crate::handler::{CloseReason, Handler};
use crate::ws::{CloseCode, Item, Role, State};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// A token bucket as one number: the time at which it is full again (the generic cell rate algorithm,
/// ITU-T I.371). Nothing has to be refilled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    full_at_ns: u64,
}

fn cost_ns(amount: u32, per_second: u32) -> u64 {
    u64::from(amount) * 1_000_000_000 / u64::from(per_second.max(1))
}

impl Pace {
    /// Takes `amount` out of a bucket of `burst` if that much is in it.
    pub fn take(&mut self, now: Duration, amount: u32, per_second: u32, burst: u32) -> bool {
        let full_at_ns = self.after(now, amount, per_second);
        let fits = full_at_ns <= now.as_nanos() as u64 + cost_ns(burst, per_second);
        if fits {
            self.full_at_ns = full_at_ns;
        }
        fits
    }

    /// Takes `amount` whether it is in the bucket or not; what is lacking has to be waited for.
    fn owe(&mut self, now: Duration, amount: u32, per_second: u32, burst: u32) -> Option<Duration> {
        self.full_at_ns = self.after(now, amount, per_second);
        let debt_ns = self.full_at_ns.saturating_sub(cost_ns(burst, per_second));
        Some(Duration::from_nanos(debt_ns)).filter(|until| *until > now)
    }

    fn after(self, now: Duration, amount: u32, per_second: u32) -> u64 {
        self.full_at_ns.max(now.as_nanos() as u64).saturating_add(cost_ns(amount, per_second))
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Paces {
    messages: Pace,
    bytes: Pace,
}

/// When a connection goes on, which one, and the tick of its pause.
type Paused = (Duration, [u32; 2], u32);

/// What the connections of one core may send.
#[derive(Debug, Default)]
pub struct Meters {
    /// `None`: no rate is configured.
    config: Option<Rates>,
    /// By slot.
    paces: Vec<Paces>,
    /// What is owed since the last look, by the connection that is receiving.
    until: Option<Duration>,
    /// Paused, by the time at which they go on.
    paused: BinaryHeap<Reverse<Paused>>,
}

impl Meters {
    /// Meters for these rates.
    pub fn new(mut config: Rates) -> Self {
        let or_one_second = |burst: u32, rate: u32| if burst == 0 { rate } else { burst };
        config.burst_messages = or_one_second(config.burst_messages, config.messages_per_second);
        config.burst_bytes = or_one_second(config.burst_bytes, config.bytes_per_second);
        let on = config.messages_per_second > 0 || config.bytes_per_second > 0;
        Self { config: on.then_some(config), ..Self::default() }
    }

    /// Whether there is any.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.config.is_some()
    }

    /// A connection has taken the slot.
    pub fn begin(&mut self, index: u32) {
        if self.is_on() {
            let index = index as usize;
            if self.paces.len() <= index {
                self.paces.resize(index + 1, Paces::default());
            }
            self.paces[index] = Paces::default();
        }
    }

    /// Bytes of side records.
    pub fn held_bytes(&self) -> usize {
        self.paces.capacity() * size_of::<Paces>()
    }

    /// Whether any connection is paused.
    #[inline]
    pub fn has_paused(&self) -> bool {
        !self.paused.is_empty()
    }

    /// When the next paused connection goes on.
    pub fn next_due(&self) -> Option<Duration> {
        self.paused.peek().map(|Reverse((until, ..))| *until)
    }

    /// Whether the connection that is receiving has to wait before its next message.
    #[inline]
    pub fn owes(&self) -> bool {
        self.until.is_some()
    }

    /// Lets a connection that waits go on at once.
    pub fn forgive(&mut self, token: Token, tick: u32) {
        self.paused.push(Reverse((Duration::ZERO, [token.slot, token.generation], tick)));
    }

    /// A message, or a part of one that is not its first; false if the connection is to be closed for it.
    fn take(&mut self, index: u32, now: Duration, messages: u32, bytes: u32) -> bool {
        let (Some(config), Some(paces)) = (&self.config, self.paces.get_mut(index as usize)) else {
            return true;
        };
        for (pace, amount, per_second, burst) in [
            (&mut paces.messages, messages, config.messages_per_second, config.burst_messages),
            (&mut paces.bytes, bytes, config.bytes_per_second, config.burst_bytes),
        ] {
            if per_second == 0 || amount == 0 {
                continue;
            }
            match config.over {
                OverRate::Close if !pace.take(now, amount, per_second, burst) => return false,
                OverRate::Close => {}
                OverRate::Pause => self.until = self.until.max(pace.owe(now, amount, per_second, burst)),
            }
        }
        true
    }
}

impl<H: Handler> Party<'_, H> {
    /// Counts what came; false if it was too much, and the connection is to be closed.
    #[cold]
    pub fn keeps_pace(&mut self, item: &Item) -> bool {
        let (first, payload) = match item {
            Item::Message { payload, .. } => (true, payload),
            Item::Piece { payload, first, .. } | Item::Deflated { payload, first, .. } => (*first, payload),
            _ => return true,
        };
        if self.slot.session.role() == Role::Client || !self.common.meters.is_on() {
            return true;
        }
        let bytes = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        self.common.meters.take(self.token.slot, self.common.now, u32::from(first), bytes)
    }

    /// Keeps what the peer sent too early. It is no more than was under way when receiving paused:
    /// `max_receive_bytes_per_turn`.
    #[cold]
    pub fn hold(&mut self, input: &[u8]) {
        if input.is_empty() {
            return;
        }
        let mut held = std::mem::take(&mut self.common.receive(self.slot).held);
        if held.capacity() == 0 {
            held = self.common.pool.take(input.len());
        }
        held.extend_from_slice(input);
        self.common.receive(self.slot).held = held;
    }

    /// The peer sends faster than it may.
    #[cold]
    pub fn too_fast(&mut self) -> Outcome {
        self.common.stats.rate_closes.add(1);
        let reason = "messages come faster than they may";
        self.common.close(self.slot, self.token, Some(CloseCode::POLICY_VIOLATION), reason);
        self.slot.session.fail();
        self.tell_close(CloseReason::RateLimit);
        self.finishing();
        Outcome::Ended
    }
}

impl<D: Driver, H: Handler> Core<D, H> {
    /// Pauses a connection that owes time; `SLOWED` is set already.
    pub(super) fn pause_the_fast(&mut self, token: Token) {
        let Some(until) = self.common.meters.until.take() else { return };
        let Some((slot, _)) = self.table.get(token) else { return };
        if slot.phase != Phase::Open || slot.session.state() != State::Open {
            slot.flags.take(Flags::SLOWED);
            return;
        }
        if !slot.flags.has(Flags::PAUSED) {
            slot.flags.set(Flags::PAUSED);
            self.driver.pause(token);
        }
        event!(debug, shard = self.common.shard, slot = token.slot, "slowed down");
        self.common.stats.rate_pauses.add(1);
        let paused = &mut self.common.meters.paused;
        if paused.len() > 2 * self.table.len() + 64 {
            // Most are of connections that have ended.
            let table = &mut self.table;
            paused.retain(|Reverse((_, [slot, generation], _))| {
                table.get(Token { slot: *slot, generation: *generation }).is_some()
            });
        }
        paused.push(Reverse((until, [token.slot, token.generation], self.common.tick)));
    }

    /// Goes on with those whose time has come: first with what was held of them.
    #[inline(never)]
    pub(super) fn resume_the_slowed(&mut self) {
        while self.common.meters.next_due().is_some_and(|until| until <= self.clock.now()) {
            let Some(Reverse((_, [slot, generation], since))) = self.common.meters.paused.pop() else {
                return;
            };
            let token = Token { slot, generation };
            let Some(mut party) = self.party(token) else { continue };
            if !party.slot.flags.take(Flags::SLOWED) {
                continue;
            }
            // The pause was ours: it is no part of the time that a message may take.
            let waited = party.common.tick.wrapping_sub(since);
            let mut held = Vec::new();
            if let Some(received) = party.common.received(party.slot) {
                received.assembly_since = received.assembly_since.wrapping_add(waited);
                held = std::mem::take(&mut received.held);
            }
            let outcome = if party.slot.phase == Phase::Open {
                party.take_frames(&mut held, false)
            } else {
                Outcome::Continue
            };
            party.common.pool.give(held);
            self.after_received(token, outcome);
            self.resume(token);
            self.arm_for_state(token);
            self.end_after_eof(token);
        }
    }

    /// The peer's FIN came while it had to wait, and all that came before it is delivered.
    fn end_after_eof(&mut self, token: Token) {
        let Some((slot, _)) = self.table.get(token) else { return };
        if slot.phase == Phase::Open && slot.flags.has(Flags::EOF) && !slot.flags.has(Flags::SLOWED) {
            self.on_eof(token);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_burst_and_then_one_by_one() {
        let mut pace = Pace::default();
        let now = ms(5_000);
        assert!((0..3).all(|_| pace.take(now, 1, 10, 3)));
        assert!(!pace.take(now, 1, 10, 3));
        assert!(!pace.take(now + ms(99), 1, 10, 3));
        assert!(pace.take(now + ms(100), 1, 10, 3));
        assert!(!pace.take(now + ms(100), 1, 10, 3), "a refusal costs nothing, and there was one");
        assert!((0..3).all(|_| pace.take(now + ms(9_000), 1, 10, 3)), "full again");
        assert!(!pace.take(now + ms(9_000), 1, 10, 3), "and no fuller than full");
    }

    #[test]
    fn what_is_owed_is_waited_for() {
        let mut pace = Pace::default();
        let now = ms(1_000);
        assert_eq!(pace.owe(now, 1_000, 1_000, 1_000), None);
        assert_eq!(pace.owe(now, 500, 1_000, 1_000), Some(ms(1_500)));
        assert_eq!(pace.owe(ms(1_500), 0, 1_000, 1_000), None);
        assert_eq!(pace.owe(ms(1_500), 4_000_000_000, 4_000_000_000, 4_000_000_000), Some(ms(2_500)));
    }

    #[test]
    fn without_rates_there_are_no_records() {
        let mut meters = Meters::new(Rates::default());
        meters.begin(1_000_000);
        assert_eq!((meters.is_on(), meters.held_bytes()), (false, 0));
    }
}
