//! What a core's connections make it hold, in bytes, and what happens when that is too much.
//!
//! Nothing is added up by a walk: each number changes where a buffer changes hands, and
//! [`audit`](super::audit) checks that. The contract: at the end of a turn the total is within
//! `max_shard_bytes`, or all was let go that can be. First go the free buffers, then the connections
//! that hold most, until an eighth of the budget is free again.

use super::Core;
use super::common::Common;
use super::events::event;
use super::slot::{Flags, NO_WORK, Phase, Slot};
use super::work::{Received, Work};
use crate::driver::{Driver, Token};
use crate::handler::{CloseReason, Handler};
use crate::http::Response;
use crate::ws::CloseCode;
use crate::ws::deflate::Inflater;

/// A core's books.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Received and kept: heads, bodies, frames and messages that are not whole, and what is held of
    /// peers that have to wait.
    pub received_bytes: usize,
    /// Of these, what was received before a request or a handshake was whole.
    pub early_bytes: usize,
}

/// What of a work is in the books.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    bytes: usize,
    is_early: bool,
}

impl Common {
    /// Enters what is kept of what came, and gives its place back where that is nothing. To be called when it may have
    /// changed.
    #[inline]
    pub fn account(&mut self, slot: &Slot) {
        let Some(work) = self.works.get_mut(slot.work as usize) else { return };
        let Some(received) = &mut work.received else { return };
        let is_early = matches!(slot.phase, Phase::Head | Phase::Deferred);
        let entry = Entry { bytes: received.bytes(), is_early };
        let before = std::mem::replace(&mut received.entry, entry);
        self.ledger.take_out(before);
        self.ledger.put_in(entry);
        if received.is_empty()
            && !slot.session.is_inside_message()
            && let Some(place) = work.received.take()
        {
            self.places.give(place);
        }
    }

    /// Whether nothing of what came is kept, and nothing but answers within bounds waits: then there is nothing to account,
    /// and the flush sees to the rest.
    #[inline]
    pub fn merely_answers(&self, slot: &Slot) -> bool {
        let Some(work) = self.works.get(slot.work as usize) else { return slot.work == NO_WORK };
        let bound = self.limits.max_connection_bytes as usize;
        let queued = work.queued();
        slot.phase == Phase::Open
            && slot.flags.has(Flags::DIRTY)
            && work.received.is_none()
            && queued > 0
            && (queued <= bound || bound == 0)
    }

    /// Bytes that a connection holds, but for its slot.
    pub fn held_bytes(&self, slot: &Slot) -> usize {
        self.works.get(slot.work as usize).map_or(0, |work| {
            work.queued() + work.received.as_ref().map_or(0, |received| received.entry.bytes)
        })
    }
}

impl Ledger {
    fn put_in(&mut self, entry: Entry) {
        self.received_bytes += entry.bytes;
        self.early_bytes += if entry.is_early { entry.bytes } else { 0 };
    }

    /// Takes a work out that is given back.
    pub fn take_out(&mut self, entry: Entry) {
        self.received_bytes -= entry.bytes;
        self.early_bytes -= if entry.is_early { entry.bytes } else { 0 };
    }
}

impl<D: Driver, H: Handler> Core<D, H> {
    /// All that is in the books.
    pub(super) fn total_bytes(&self) -> u64 {
        let Self { common, .. } = self;
        let slots = self.table.bound() as usize * (size_of::<Slot>() + size_of::<Option<H::State>>());
        // Each of those in use may have a place for what it received.
        let works = common.works.capacity() * size_of::<Work>() + common.works.len() * size_of::<Received>();
        let side = common.meters.held_bytes() + common.lifetimes.held_bytes() + common.tls.held_bytes();
        let topics =
            common.topics.as_ref().map_or(0, |topics| topics.held_bytes()) + common.sides.held_bytes();
        let inflaters = common.deflate.lent() as usize * Inflater::MEMORY_BYTES;
        let buffers = common.stats.receive_buffers.get() * u64::from(common.limits.receive_buffer_bytes);
        let bytes = common.outbox_bytes
            + common.ledger.received_bytes
            + common.pool.free_bytes()
            + common.deflate.owned_bytes()
            + inflaters
            + self.inbox.held_bytes()
            + slots
            + works
            + common.places.held_bytes()
            + side
            + topics;
        bytes as u64 + buffers
    }

    /// Shows the books, and lets go of what is too much.
    pub(super) fn keep_the_books(&mut self) {
        let total = self.total_bytes();
        let stats = &self.common.stats;
        stats.received_bytes.set(self.common.ledger.received_bytes as u64);
        stats.early_bytes.set(self.common.ledger.early_bytes as u64);
        stats.memory_bytes.set(total);
        if total > self.common.limits.max_shard_bytes && !self.stopped {
            self.let_go(total);
        }
    }

    #[cold]
    fn let_go(&mut self, total: u64) {
        let budget = self.common.limits.max_shard_bytes;
        let pooled = self.common.pool.free_bytes() as u64;
        self.common.pool.free_all();
        let mut total = total - pooled;
        if total <= budget {
            return;
        }
        let target = budget - budget / 8;
        let common = &self.common;
        let holders = self.table.iter().filter(|(_, slot, _)| slot.phase != Phase::Closing);
        let held = holders
            .map(|(token, slot, _)| (common.held_bytes(slot) + common.deflate.bytes_of(token.slot), token));
        let mut holders: Vec<(usize, Token)> = held.filter(|(bytes, _)| *bytes > 0).collect();
        holders.sort_unstable_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        for (bytes, token) in holders {
            if total <= target {
                return;
            }
            self.end_holder(token);
            total = total.saturating_sub(bytes as u64);
        }
    }

    /// What a connection keeps before its handshake, or all in all, may be more than it may: to be asked
    /// when it has been accounted.
    pub(super) fn keep_to_budget(&mut self, token: Token) {
        let Some((slot, _)) = self.table.get(token) else { return };
        if slot.work == NO_WORK {
            return;
        }
        let limits = &self.common.limits;
        let held = self.common.held_bytes(slot);
        if limits.max_connection_bytes > 0 && held > limits.max_connection_bytes as usize {
            return self.end_holder(token);
        }
        let early = self.common.ledger.early_bytes;
        if slot.phase == Phase::Head && early > limits.max_early_bytes as usize {
            self.refuse_early(token);
        }
    }

    /// Requests that are half there hold all they may together: this one is not waited for.
    #[cold]
    fn refuse_early(&mut self, token: Token) {
        let response: Response = self.common.refusal();
        self.common.stats.memory_refusals.add(1);
        let Some(mut party) = self.party(token) else { return };
        party.common.forget_received(party.slot);
        party.common.stats.http_errors.add(1);
        party.append_response(&response, false, false);
        self.finish(token);
    }

    /// Ends a connection for what it holds. Where nothing waits to be sent it is told so.
    #[cold]
    fn end_holder(&mut self, token: Token) {
        event!(warn, shard = self.common.shard, slot = token.slot, "a connection holds too much");
        self.common.stats.memory_closes.add(1);
        let Some(mut party) = self.party(token) else { return };
        if party.slot.phase != Phase::Open || party.common.queued(party.slot) > 0 {
            return self.abort(token, CloseReason::Memory);
        }
        party.common.forget_received(party.slot);
        let code = Some(CloseCode::TRY_AGAIN_LATER);
        party.common.close(party.slot, token, code, "the server is short of memory");
        party.slot.session.fail();
        party.tell_close(CloseReason::Memory);
        self.finish(token);
    }
}

impl Common {
    /// Gives back what was received of a connection that will not go on.
    fn forget_received(&mut self, slot: &mut Slot) {
        let Self { works, pool, .. } = self;
        let work = works.get_mut(slot.work as usize);
        let Some(received) = work.and_then(|work| work.received.as_deref_mut()) else { return };
        received.give_buffers(pool);
        self.account(slot);
    }
}
