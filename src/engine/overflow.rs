//! What becomes of messages for a peer that does not keep up: the policies, and what they count.
//!
//! Only a connection with a policy of its own ([`Flags::HOLDS`]) comes here, and only while something
//! of its waits. Its messages then stand in a [`Backlog`] behind the queue, each whole, and are handed
//! to the queue a few at a time.

use super::backlog::{Backlog, Key};
use super::common::{Common, SendResult};
use super::pool::Pool;
use super::sides::Side;
use super::slot::{Flags, Phase, Slot};
use super::work::Work;
use crate::driver::{SendBuf, Token};
use crate::ws::{self, CloseCode, Kind, Prepared, Role, State};
use bytes::Bytes;
use std::sync::Arc;

/// Bytes in the queue from which on messages are held back, and up to which it is filled again: what
/// cannot be thrown away any more.
const QUEUE_BYTES: usize = 64 << 10;

/// A message of the connection's own below it is held in memory of just its size.
const SMALL_BYTES: usize = 16 << 10;

/// What becomes of messages beyond [`Limits::max_outbox_bytes`](crate::Limits::max_outbox_bytes) on a
/// connection whose peer does not keep up.
///
/// Set for a connection ([`Conn::set_overflow`](crate::Conn::set_overflow),
/// [`Upgrade::overflow`](crate::Upgrade::overflow)) or for one subscription
/// ([`Subscribe::overflow`](crate::Subscribe::overflow)). What has been handed to the kernel, and
/// 64 KiB before it, is never taken back; control frames are never dropped. Every message that is lost
/// is counted, and [`Handler::dropped`](crate::Handler::dropped) is told.
///
/// A message that may still be thrown away costs some 100 bytes beside its own; those that many
/// connections share exist once.
///
/// A response that goes on ([`Reply::stream`](crate::Reply::stream)) has no policy but `DropNewest`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// The message that does not fit is not taken. Metric `ringwire_messages_dropped_total`.
    #[default]
    DropNewest,
    /// The oldest messages with this policy make room. Metric
    /// `ringwire_messages_dropped_oldest_total`.
    DropOldest,
    /// Of publications with the same topic and [`key`](crate::Publication::key) only the latest
    /// waits, whether there is room or not. It takes the place of the one before: a value that changes
    /// often is not put off again and again, and so it may overtake values of other keys. What does
    /// not fit then, and every other message, is treated as with `DropNewest`. Metric
    /// `ringwire_messages_conflated_total`.
    Conflate,
    /// The connection is closed with this code: 1013 ([`CloseCode::TRY_AGAIN_LATER`]) or one of 4000
    /// to 4999. The message is not taken. Metric `ringwire_overflow_closes_total`.
    Close(CloseCode),
}

impl Overflow {
    /// Closes with 1013: the peer may come back later.
    pub const CLOSE: Self = Self::Close(CloseCode::TRY_AGAIN_LATER);
}

/// What a connection has lost since its handler was last told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Publications, and messages to the user, that did not fit. A message that the handler sends itself is not among them:
    /// [`SendResult`] told of it.
    pub newest: u32,
    /// Messages that made room for later ones ([`Overflow::DropOldest`]).
    pub oldest: u32,
    /// Values that later ones replaced ([`Overflow::Conflate`]).
    pub conflated: u32,
}

impl Dropped {
    /// Adds what another one tells.
    pub(crate) fn add(&mut self, other: Self) {
        self.newest = self.newest.saturating_add(other.newest);
        self.oldest = self.oldest.saturating_add(other.oldest);
        self.conflated = self.conflated.saturating_add(other.conflated);
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        u64::from(self.newest) + u64::from(self.oldest) + u64::from(self.conflated)
    }
}

/// How a publication came to a connection.
#[derive(Debug)]
pub struct Via<'a> {
    /// The list of the subscription.
    pub list: u32,
    /// What it was published to.
    pub topic: &'a Arc<str>,
    /// What a later one replaces it by.
    pub key: u64,
}

impl Common {
    /// Whether messages to this connection are held back at the moment.
    #[inline]
    pub(super) fn holds(&self, slot: &Slot) -> bool {
        slot.flags.has(Flags::HOLDS)
            && slot.phase == Phase::Open
            && self.works.get(slot.work as usize).is_some_and(Work::is_pressed)
    }

    /// Sets what becomes of messages that do not fit.
    pub fn set_overflow(&mut self, slot: &mut Slot, token: Token, overflow: Overflow) {
        self.sides.set_overflow(token.slot, overflow);
        if overflow != Overflow::DropNewest {
            slot.flags.set(Flags::HOLDS);
        }
    }

    /// Sets how much may wait for this connection.
    pub fn set_max_outbox(&mut self, slot: &mut Slot, token: Token, bytes: u32) {
        // 0 would stand for no limit of its own.
        self.sides.set_max_outbox(token.slot, bytes.max(1));
        slot.flags.set(Flags::HOLDS);
    }

    /// Bytes that may wait for a connection.
    pub(super) fn max_outbox(&self, slot: u32) -> usize {
        let own = self.sides.get(slot).map_or(0, Side::max_outbox_bytes);
        let all = self.limits.max_outbox_bytes;
        (if own == 0 { all } else { own.min(all) }) as usize
    }

    /// The connection's policy.
    pub fn overflow(&self, slot: u32) -> Overflow {
        self.sides.get(slot).map_or(Overflow::DropNewest, Side::overflow)
    }

    /// Sends what was published to a topic (`via`) or to a user, and notes if it is lost.
    pub(super) fn send_published(
        &mut self,
        slot: &mut Slot,
        token: Token,
        message: &Prepared,
        via: Option<&Via<'_>>,
    ) -> SendResult {
        let result = if self.holds(slot) {
            self.hold_prepared(slot, token, message, via)
        } else {
            self.send_prepared(slot, token, message)
        };
        if result == SendResult::Dropped {
            self.note_drop(token, Dropped { newest: 1, ..Dropped::default() });
        }
        result
    }

    /// Holds a message that goes to others as well.
    #[cold]
    pub(super) fn hold_prepared(
        &mut self,
        slot: &mut Slot,
        token: Token,
        prepared: &Prepared,
        via: Option<&Via<'_>>,
    ) -> SendResult {
        let (kind, payload) = prepared.parts();
        let role = slot.session.role();
        if role == Role::Client {
            return self.hold_message(slot, token, kind, payload, true, via);
        }
        let deflate = slot.session.deflate().filter(|_| payload.len() >= self.deflate.min_bytes());
        let frame = match deflate.filter(|params| !params.outgoing(role).takeover) {
            None => prepared.plain(),
            Some(params) => prepared.deflated(params.outgoing(role).bits, |payload| {
                self.deflate.compress(token.slot, params, role, payload)
            }),
        };
        self.hold(slot, token, (kind, payload.len()), SendBuf::Shared(frame.clone()), via)
    }

    /// Holds a message of this connection's own. One that would go through a window that outlives it is
    /// not compressed: if it is dropped, the peer's window must not miss it.
    #[cold]
    pub(super) fn hold_message(
        &mut self,
        slot: &mut Slot,
        token: Token,
        kind: Kind,
        payload: &[u8],
        compress: bool,
        via: Option<&Via<'_>>,
    ) -> SendResult {
        let Ok(mask) = self.mask(slot) else { return SendResult::Dropped };
        let role = slot.session.role();
        let deflate = slot.session.deflate().filter(|params| compress && !params.outgoing(role).takeover);
        let Self { deflate: contexts, pool, .. } = self;
        let deflated = deflate
            .filter(|_| payload.len() >= contexts.min_bytes())
            .and_then(|params| contexts.compress(token.slot, params, role, payload));
        let mut frame = pool.take(ws::MAX_HEADER + deflated.unwrap_or(payload).len());
        match deflated {
            Some(deflated) => ws::encode_deflated(&mut frame, kind, deflated, mask),
            None => ws::encode_message(&mut frame, kind, payload, mask),
        }
        self.hold(slot, token, (kind, payload.len()), SendBuf::Owned(frame), via)
    }

    /// Puts a frame into the backlog, as far as the policy lets it.
    pub(super) fn hold(
        &mut self,
        slot: &mut Slot,
        token: Token,
        (kind, payload_bytes): (Kind, usize),
        frame: SendBuf,
        via: Option<&Via<'_>>,
    ) -> SendResult {
        if slot.phase != Phase::Open || slot.session.state() != State::Open {
            self.pool.give_back(frame);
            return SendResult::Closed;
        }
        let side = self.sides.get(token.slot);
        let of_sub = side.zip(via).and_then(|(side, via)| side.of(via.list)).and_then(|sub| sub.overflow);
        let overflow = of_sub.unwrap_or_else(|| self.overflow(token.slot));
        let key = via.map(|via| (via.topic.clone(), via.key));
        slot.flags.set(Flags::WANTS_DRAIN);
        let frame = match frame {
            SendBuf::Owned(own) if own.len() < SMALL_BYTES => {
                // Many small messages may wait: not each in a buffer with room for more.
                let exact = SendBuf::Shared(Bytes::copy_from_slice(&own));
                self.pool.give(own);
                exact
            }
            frame => frame,
        };
        if let Err(frame) = self.make_room(slot, token, frame, overflow, key.as_ref()) {
            self.pool.give_back(frame);
            self.stats.messages_dropped.add(1);
            if let Overflow::Close(code) = overflow {
                self.stats.overflow_closes.add(1);
                self.close(slot, token, Some(code), "too much waits to be read");
            }
            return SendResult::Dropped;
        }
        self.stats.count_sent(kind, payload_bytes);
        SendResult::Queued
    }

    /// Puts the frame in if there is room, or can be; gives it back otherwise.
    fn make_room(
        &mut self,
        slot: &mut Slot,
        token: Token,
        frame: SendBuf,
        overflow: Overflow,
        key: Option<&Key>,
    ) -> Result<(), SendBuf> {
        let max = self.max_outbox(token.slot);
        let bytes = frame.as_slice().len();
        let mut lost = Dropped::default();
        self.work(slot);
        let Self { works, pool, stats, outbox_bytes, .. } = self;
        let work = &mut works[slot.work as usize];
        let queued = work.queued();
        let backlog = work.backlog.get_or_insert_default();
        let key_of_latest = key.filter(|_| overflow == Overflow::Conflate);
        let replaced = key_of_latest.and_then(|key| backlog.bytes_of(key)).unwrap_or(0);
        let mut free = (max + replaced).saturating_sub(queued);
        while free < bytes && overflow == Overflow::DropOldest && bytes <= max {
            let Some(oldest) = backlog.drop_oldest() else { break };
            let dropped = oldest.as_slice().len();
            free += dropped;
            work.backlog_bytes -= dropped;
            *outbox_bytes -= dropped;
            pool.give_back(oldest);
            lost.oldest += 1;
        }
        let result = if free < bytes {
            Err(frame)
        } else {
            if replaced > 0
                && let Some(key) = key_of_latest
            {
                pool.give_back(backlog.replace(key, frame).unwrap_or_else(|| SendBuf::Owned(Vec::new())));
                lost.conflated = 1;
            } else {
                let droppable = overflow == Overflow::DropOldest;
                if let (Some(key), None) = (key, key_of_latest) {
                    backlog.settle(key);
                }
                backlog.push(frame, droppable, key_of_latest.cloned());
            }
            work.backlog_bytes = work.backlog_bytes + bytes - replaced;
            *outbox_bytes = *outbox_bytes + bytes - replaced;
            Ok(())
        };
        stats.messages_dropped_oldest.add(lost.oldest.into());
        stats.messages_conflated.add(lost.conflated.into());
        self.mark_dirty(slot, token);
        if lost != Dropped::default() {
            self.note_drop(token, lost);
        }
        result
    }

    fn note_drop(&mut self, token: Token, dropped: Dropped) {
        match self.drops.last_mut() {
            Some((last, so_far)) if *last == token => so_far.add(dropped),
            _ => self.drops.push((token, dropped)),
        }
    }

    /// What was lost, once for each connection.
    pub(super) fn take_drops(&mut self) -> Vec<(Token, Dropped)> {
        let mut drops = std::mem::take(&mut self.drops);
        // By slot; the order among connections does not matter.
        drops.sort_unstable_by_key(|(token, _)| (token.slot, token.generation));
        drops.dedup_by(|(token, dropped), (before, so_far)| {
            let same = token == before;
            if same {
                so_far.add(*dropped);
            }
            same
        });
        drops
    }
}

impl Work {
    /// Whether more would wait behind what the peer has not taken. What was answered in this turn has
    /// been handed over as early as it could.
    fn is_pressed(&self) -> bool {
        (self.in_flight > 0 && !self.answered) || self.backlog_bytes > 0 || self.queue.bytes() >= QUEUE_BYTES
    }

    /// Hands messages to the queue, up to so many bytes: all of them if `limit` is `usize::MAX`.
    #[cold]
    fn refill_up_to(&mut self, pool: &mut Pool, limit: usize) {
        let Some(backlog) = &mut self.backlog else { return };
        while self.backlog_bytes > 0 && self.queue.bytes() < limit {
            let Some(frame) = backlog.pop() else { break };
            let bytes = frame.as_slice().len();
            self.backlog_bytes -= bytes;
            match frame {
                SendBuf::Shared(frame) => self.queue.share(pool, &frame),
                SendBuf::Owned(own) => {
                    self.queue.append(pool, bytes, |out| out.extend_from_slice(&own));
                    pool.give(own);
                }
            }
        }
    }

    /// What is to be sent next.
    #[inline]
    pub(super) fn next_send(&mut self, pool: &mut Pool) -> Option<SendBuf> {
        self.refill_if_empty(pool);
        self.queue.take()
    }

    /// Hands the first messages to a queue in which nothing waits.
    #[inline]
    pub(super) fn refill_if_empty(&mut self, pool: &mut Pool) {
        if self.backlog_bytes > 0 && self.queue.bytes() == 0 {
            self.refill_up_to(pool, QUEUE_BYTES);
        }
    }

    /// Hands all messages to the queue: a Close frame comes behind them.
    pub(super) fn refill_all(&mut self, pool: &mut Pool) {
        self.refill_up_to(pool, usize::MAX);
    }
}

impl Backlog {
    /// Gives all that is in it back.
    pub(super) fn dismantle(mut self, pool: &mut Pool) {
        while let Some(frame) = self.pop() {
            pool.give_back(frame);
        }
    }
}
