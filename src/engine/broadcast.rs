//! Messages to all connections of a core, a step each turn.
//!
//! A pass visits every slot once, with a few messages that wait at its begin; those that come
//! meanwhile wait for the next pass. So each connection sees them in order and at most once, and what
//! is sent to it at once leaves as one send. A turn goes only so far: whoever has to say something
//! else to a core is heard between two steps.

use super::Core;
use super::budget::{Budget, pass_len};
use crate::driver::Driver;
use crate::handler::Handler;
use crate::ws::{Prepared, State};
use std::collections::VecDeque;

/// Room for messages kept when none wait.
const MAX_IDLE_ROOM: usize = 1_024;

/// A message to all.
#[derive(Debug)]
pub struct Broadcast {
    /// What.
    pub message: Prepared,
    /// As its sender chose.
    pub tag: u64,
    /// What the mailbox counts it for.
    pub held_bytes: usize,
}

/// What of a core's broadcasts is still to be done.
#[derive(Debug, Default)]
pub struct Broadcasts {
    waiting: VecDeque<Broadcast>,
    /// Those of the pass under way.
    pass: Vec<Broadcast>,
    next_slot: u32,
}

impl Broadcasts {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.pass.is_empty()
    }

    /// One more.
    pub fn push(&mut self, broadcast: Broadcast) {
        self.waiting.push_back(broadcast);
    }

    /// Begins a pass if none is under way.
    fn begin(&mut self) {
        if self.pass.is_empty() {
            self.next_slot = 0;
            let payloads = self.waiting.iter().map(|waiting| waiting.message.parts().1.len());
            let count = pass_len(payloads);
            self.pass.extend(self.waiting.drain(..count));
            if self.waiting.is_empty() && self.waiting.capacity() > MAX_IDLE_ROOM {
                self.waiting = VecDeque::new();
            }
        }
    }

    /// Forgets them all.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

impl<D: Driver, H: Handler> Core<D, H> {
    /// Goes on with the pass under way, or begins one: there are some.
    #[inline(never)]
    pub(super) fn progress_broadcasts(&mut self) {
        self.broadcasts.begin();
        let pass = std::mem::take(&mut self.broadcasts.pass);
        let mut budget = Budget::of_turn(&self.common);
        let mut slot = self.broadcasts.next_slot;
        while slot < self.table.bound() {
            if budget.is_spent(&self.common) {
                self.broadcasts.next_slot = slot;
                self.broadcasts.pass = pass;
                return;
            }
            budget.spend(1 + self.tell_all(slot, &pass));
            slot += 1;
        }
        for broadcast in &pass {
            self.inbox.let_go(broadcast.held_bytes);
            self.common.stats.broadcasts.add(1);
        }
        self.broadcasts.pass = pass;
        self.broadcasts.pass.clear();
    }

    /// Calls the handler with each message, as long as the slot's connection is open; tells how often.
    fn tell_all(&mut self, slot: u32, pass: &[Broadcast]) -> usize {
        let Some(token) = self.table.token(slot) else { return 0 };
        let Some(mut party) = self.party(token) else { return 0 };
        for (calls, broadcast) in pass.iter().enumerate() {
            let is_open = party.slot.phase.is_open() && party.slot.session.state() == State::Open;
            let Some((handler, mut conn)) = party.conn().filter(|_| is_open) else { return calls };
            handler.broadcast(&mut conn, &broadcast.message, broadcast.tag);
        }
        pass.len()
    }
}
