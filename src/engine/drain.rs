//! The end of a core, in order: nobody new is let in, everybody is told, and who does not answer in
//! time is cut.
//!
//! With `drain_window_ms` each connection is told at a moment of its own, drawn when the drain begins,
//! and is served until then. The contract: the core has stopped `drain_ms` after the last was told.

use super::events::event;
use super::slot::Phase;
use super::{AcceptPause, Core};
use crate::driver::{Driver, Token};
use crate::handler::{CloseReason, Handler};
use std::time::Duration;

/// A drain under way.
#[derive(Debug)]
pub(super) struct Drain {
    /// Who has not been told yet, and when that is due; the last one first.
    to_tell: Vec<(Duration, Token)>,
    /// When the core stops, whoever is still there.
    until: Duration,
}

impl Drain {
    /// When something is to be done at the latest.
    pub fn next_due(&self, now: Duration) -> Duration {
        let next = self.to_tell.last().map(|(when, _)| *when);
        next.unwrap_or(self.until).min(self.until).max(now)
    }

    /// A moment within the window for each.
    fn new(tokens: Vec<Token>, now: Duration, window: Duration, wait: Duration) -> Self {
        let window_ns = window.as_nanos() as u64;
        let moment = |token: &Token| {
            // Slots are neighbours; what tells them apart is spread over all bits (splitmix64).
            let mut bits = u64::from(token.generation) << 32 | u64::from(token.slot);
            bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            bits ^= bits >> 31;
            let ns = (u128::from(bits) * u128::from(window_ns)) >> 64;
            now + Duration::from_nanos(ns as u64)
        };
        let mut to_tell: Vec<_> = tokens.into_iter().map(|token| (moment(&token), token)).collect();
        to_tell.sort_unstable_by_key(|(when, _)| std::cmp::Reverse(*when));
        Self { to_tell, until: now + window + wait }
    }
}

impl<D: Driver, H: Handler> Core<D, H> {
    pub(super) fn begin_drain(&mut self) {
        if self.common.draining {
            return;
        }
        self.common.draining = true;
        self.accept_paused = AcceptPause::No;
        self.driver.close_listeners();
        for (socket, ..) in self.parked.drain(..) {
            self.driver.refuse(socket);
        }
        let mut tokens = Vec::with_capacity(self.table.len());
        self.table.tokens(&mut tokens);
        event!(info, shard = self.common.shard, connections = tokens.len(), "drain");
        self.common.stats.draining.set(1);
        self.common.stats.drain_began_with.set(tokens.len() as u64);
        let ms = |ms: u32| Duration::from_millis(ms.into());
        let deadlines = &self.common.deadlines;
        let (window, wait) = (ms(deadlines.drain_window_ms), ms(deadlines.drain_ms));
        self.drain = Some(Drain::new(tokens, self.clock.now(), window, wait));
        self.tell_due();
    }

    #[inline(never)]
    pub(super) fn progress_drain(&mut self) {
        if self.common.stop_asked {
            self.common.stop_asked = false;
            self.begin_drain();
        }
        if self.drain.is_none() {
            return;
        }
        self.tell_due();
        let Some(drain) = &self.drain else { return };
        if self.table.is_empty() || self.clock.now() >= drain.until {
            self.stop();
        }
    }

    /// Tells those whose moment has come.
    fn tell_due(&mut self) {
        let now = self.clock.now();
        loop {
            let Some(drain) = &mut self.drain else { return };
            let Some((_, token)) = drain.to_tell.pop_if(|(when, _)| *when <= now) else { return };
            self.tell_goodbye(token);
        }
    }

    fn tell_goodbye(&mut self, token: Token) {
        let Some((slot, _)) = self.table.get(token) else { return };
        match slot.phase {
            Phase::Deferred => self.dismiss_waiting(token),
            Phase::Open | Phase::Stream => {
                self.common.say_goodbye(slot, token, "the server is going away");
                self.arm_for_state(token);
            }
            Phase::Head if self.common.queued(slot) == 0 => self.abort(token, CloseReason::Shutdown),
            Phase::Head => self.common.enter(slot, Phase::Finishing),
            Phase::Securing | Phase::Connecting => self.abort(token, CloseReason::Shutdown),
            Phase::Finishing | Phase::Lingering | Phase::Closing => {}
        }
    }
}
