//! Messages to all connections of a core, a step each turn.
//!
//! A pass visits every slot once, with a few messages that wait at its begin; those that come
//! meanwhile wait for the next pass. So each connection sees them in order and at most once, and what
//! is sent to it at once leaves as one send. A turn goes only so far: whoever has to say something
//! else to a core is heard between two steps.

use super::Core;
use crate::driver::Driver;
use crate::handler::Handler;
use crate::ws::{Prepared, State};
use std::collections::VecDeque;

/// Bytes queued in one turn, beyond the last connection's.
const BYTES_PER_TURN: usize = 4 << 20;
/// Calls of the handler in one turn, and slots looked at, beyond the last connection's.
const CALLS_PER_TURN: usize = 16_384;
/// Messages of one pass.
const PASS_MESSAGES: usize = 256;
/// Payload bytes of one pass, unless its first message has more: what idle connections are sent at
/// once, and so no reason for their outboxes to be full.
const PASS_BYTES: usize = 64 << 10;
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

    /// Begins a pass if none is under way; false if there is nothing to do.
    fn begin(&mut self) -> bool {
        if self.pass.is_empty() {
            self.next_slot = 0;
            let mut bytes = 0;
            while let Some(next) = self.waiting.front() {
                bytes += next.message.parts().1.len();
                if self.pass.len() == PASS_MESSAGES || (bytes > PASS_BYTES && !self.pass.is_empty()) {
                    break;
                }
                self.pass.extend(self.waiting.pop_front());
            }
            if self.waiting.is_empty() && self.waiting.capacity() > MAX_IDLE_ROOM {
                self.waiting = VecDeque::new();
            }
        }
        !self.pass.is_empty()
    }

    /// Forgets them all.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

impl<D: Driver, H: Handler> Core<D, H> {
    /// Goes on with the pass under way, or begins one.
    pub(super) fn progress_broadcasts(&mut self) {
        if !self.broadcasts.begin() {
            return;
        }
        let pass = std::mem::take(&mut self.broadcasts.pass);
        let max_dirty =
            self.common.dirty.len() + self.common.limits.max_broadcast_sends_per_turn.max(1) as usize;
        let max_outbox_bytes = self.common.outbox_bytes + BYTES_PER_TURN;
        let mut slot = self.broadcasts.next_slot;
        let mut calls = 0;
        while slot < self.table.bound() {
            if self.common.dirty.len() >= max_dirty
                || self.common.outbox_bytes >= max_outbox_bytes
                || calls >= CALLS_PER_TURN
            {
                self.broadcasts.next_slot = slot;
                self.broadcasts.pass = pass;
                return;
            }
            calls += 1 + self.tell_all(slot, &pass);
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
